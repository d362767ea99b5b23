"""FedJAX: its `fed_avg`, or its bare `for_each_client`, both on the jit backend.

python fedjax_worker.py WORK.npz TRAINED.npz fed_avg|for_each_client

`ClientDataset` fills the last batch of a client up with samples that it draws again, as FedJAX does
for all its users: one shape, one compilation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import work as shared

__all__ = ["main"]

# FedJAX 0.0.17 asks for the old name in one place; all else of it runs with today's JAX.
jax.tree_map = jax.tree.map

# One round: the clients' drawn samples -> seconds that went into batches, as far as told apart.
Round = Callable[[list[fedjax.ClientDataset]], float]
# What is left in the end: items and heads.
Left = Callable[[], tuple[np.ndarray, np.ndarray]]


def main(source: Path, target: Path, form: str) -> None:
    """Trains and reports."""
    work = shared.load(source)
    run_round, left = {"fed_avg": fed_avg, "for_each_client": bare}[form](work)
    rng = np.random.default_rng(work.seed)
    seconds, sampling = [], []
    for _ in range(work.warmup + work.rounds):
        start = time.perf_counter()
        clients = []
        for client in range(work.num_clients):
            items, labels = shared.draw(work, client, rng)
            clients.append(fedjax.ClientDataset({"items": items, "labels": labels}))
        drawn = time.perf_counter()
        drawing = run_round(clients)
        seconds.append(time.perf_counter() - start)
        sampling.append(drawn - start + drawing)
    items, heads = left()
    shared.report(
        shared.Outcome(
            round_seconds=seconds[work.warmup :],
            sampling_seconds=sampling[work.warmup :],
            peak_rss_bytes=shared.peak_rss_bytes(),
            items=items,
            heads=heads,
        ),
        target,
    )


def fed_avg(work: shared.Work) -> tuple[Round, Left]:
    """`fedjax.algorithms.fed_avg`: clients hold no state, so the head is averaged with the items.

    Weighted by a client's samples, as the algorithm does; its gradients are dense, since its
    optimizer takes one for every parameter.
    """

    def gradients(params, batch, rng):
        head_gradient, row_gradient = _steps(params, batch, work.lr)
        items = jnp.zeros_like(params["items"]).at[batch["items"]].add(row_gradient)
        return {"items": items, "head": head_gradient}

    optimizer = optax.multi_transform(
        {"items": optax.sgd(work.item_lr), "head": optax.sgd(work.lr)},
        {"items": "items", "head": "head"},
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        gradients,
        fedjax.optimizers.create_optimizer_from_optax(optimizer),
        fedjax.optimizers.sgd(learning_rate=1.0),
        _batching(work),
    )
    state = algorithm.init({"items": jnp.asarray(work.items), "head": jnp.asarray(work.head)})
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(work.seed), work.num_clients))

    def run_round(clients):
        nonlocal state
        triples = [(k, data, keys[k]) for k, data in enumerate(clients)]
        state, _ = algorithm.apply(state, triples)
        jax.block_until_ready(state.params)
        return 0.0

    def left():
        return np.asarray(state.params["items"]), np.asarray(state.params["head"])[None]

    return run_round, left


def bare(work: shared.Work) -> tuple[Round, Left]:
    """`for_each_client` on batches made beforehand; heads are private, tables are added up."""

    def init(items, head):
        return {"items": items, "head": head}

    def step(state, batch):
        head_gradient, row_gradient = _steps(state, batch, work.lr)
        return {
            "items": state["items"].at[batch["items"]].add(-work.item_lr * row_gradient),
            "head": state["head"] - work.lr * head_gradient,
        }

    train = fedjax.for_each_client(init, step)
    add = jax.jit(jnp.add, donate_argnums=0)
    items = jnp.asarray(work.items)
    heads = [jnp.asarray(work.head)] * work.num_clients

    def run_round(clients):
        nonlocal items
        start = time.perf_counter()
        hparams = _batching(work)
        triples = [
            (k, list(data.shuffle_repeat_batch(hparams)), heads[k])
            for k, data in enumerate(clients)
        ]
        batched = time.perf_counter()
        total = jnp.zeros_like(items)
        for k, trained in train(items, triples):
            total = add(total, trained["items"])
            heads[k] = trained["head"]
        items = total / work.num_clients
        jax.block_until_ready((items, heads))
        return batched - start

    def left():
        return np.asarray(items), np.stack(heads)

    return run_round, left


def _steps(params, batch, lr):
    """Gradients of the head, and of the gathered rows on a fresh pass after the head's step."""
    rows = params["items"][batch["items"]]
    head_gradient = jax.grad(_loss, argnums=1)(rows, params["head"], batch["labels"])
    head = params["head"] - lr * head_gradient
    return head_gradient, jax.grad(_loss)(rows, head, batch["labels"])


def _loss(rows, head, labels):
    logits = rows @ head[:-1] + head[-1]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


def _batching(work):
    return fedjax.ShuffleRepeatBatchHParams(
        batch_size=work.batch_size, num_epochs=work.local_epochs, seed=work.seed
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
