"""This project's PFedRec, or the per-client PyTorch loop of `torch_loop.py`, on the shared work.

python project_worker.py WORK.npz TRAINED.npz fedjax-rec [DEVICES] | torch_loop
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import work as shared

from fedjax_rec.data import Problem
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.problem import Ragged

__all__ = ["main"]

# One round by its number, from 1; and what is left in the end: items and heads.
Round = Callable[[int], None]
Left = Callable[[], tuple[np.ndarray, np.ndarray]]


def main(source: Path, target: Path, form: str, devices: str | None = None) -> None:
    """Trains and reports."""
    work = shared.load(source)
    run_round, left = torch_loop(work) if form == "torch_loop" else simulator(work, devices)
    seconds = []
    for number in range(1, work.warmup + work.rounds + 1):
        start = time.perf_counter()
        run_round(number)
        seconds.append(time.perf_counter() - start)
    items, heads = left()
    shared.report(
        shared.Outcome(
            round_seconds=seconds[work.warmup :],
            sampling_seconds=[],
            peak_rss_bytes=shared.peak_rss_bytes(),
            items=items,
            heads=heads,
        ),
        target,
    )


def simulator(work: shared.Work, devices: str | None) -> tuple[Round, Left]:
    """The engine's own round, on so many host devices; None: one a core."""
    import jax
    import jax.numpy as jnp

    count = int(devices) if devices else len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", count)
    from fedjax_rec import methods
    from fedjax_rec.simulation.devices import client_mesh
    from fedjax_rec.simulation.engine import Engine

    method = methods.pfedrec(
        dim=work.items.shape[1],
        optimizer="sgd",
        lr=work.lr,
        item_lr=work.item_lr,
        batch_size=work.batch_size,
        negatives=work.negatives,
        local_epochs=work.local_epochs,
    )
    drawn = method.init

    def init(key, problem):
        head = {"kernel": jnp.asarray(work.head[None, :-1]), "bias": jnp.asarray(work.head[-1:])}
        return drawn(key, problem)._replace(items=jnp.asarray(work.items), head=head)

    engine = Engine(method._replace(init=init), _problem(work), client_mesh(None), seed=work.seed)
    state = engine.initial_state()

    def run_round(number):
        nonlocal state
        state, _ = engine.run_round(state, number)

    def left():
        head = engine.client_states(state).head
        heads = np.concatenate([head["kernel"][:, 0], head["bias"]], axis=1)
        return np.asarray(state.server.items), heads

    return run_round, left


def torch_loop(work: shared.Work) -> tuple[Round, Left]:
    """One model copy, data loader and pair of optimizers a client, as the releases have it."""
    import torch

    sys.path.append(str(Path(__file__).parents[1]))
    import torch_loop as loop

    torch.set_num_threads(1)  # as the lean loop: a client's steps are too small to share
    problem = _problem(work)
    config = loop.LoopConfig(
        dim=work.items.shape[1],
        lr=work.lr,
        item_lr_scale=work.item_lr / (work.lr * work.num_items),
        batch_size=work.batch_size,
        negatives=work.negatives,
        local_epochs=work.local_epochs,
    )
    state = loop.init(problem, config, seed=work.seed)
    items = torch.from_numpy(work.items)
    head = {
        "head.weight": torch.from_numpy(work.head[None, :-1]),
        "head.bias": torch.from_numpy(work.head[-1:]),
    }
    clients = {client: {**own, **head} for client, own in state.clients.items()}
    state = dataclasses.replace(state, mean_items=items, clients=clients)

    def run_round(number):
        nonlocal state
        state = loop.pfedrec_round(problem, state, config, seed=work.seed + number)

    def left():
        heads = [
            torch.cat([own["head.weight"][0], own["head.bias"]]).numpy()
            for own in state.clients.values()
        ]
        return state.mean_items.numpy(), np.stack(heads)

    return run_round, left


def _problem(work: shared.Work) -> Problem:
    """One user a client, nothing held out: this work only trains."""
    clients = work.num_clients
    nothing = Ragged(np.zeros(clients + 1, np.int64), np.zeros(0, np.int32))
    dataset = Dataset(
        name="work",
        user=np.repeat(np.arange(clients, dtype=np.int32), np.diff(work.starts)),
        item=work.positives,
        timestamp=None,
        user_ids=np.arange(clients).astype(str),
        item_ids=np.arange(work.num_items).astype(str),
    )
    return Problem(
        dataset=dataset,
        split="loo",
        protocol="leak-free",
        user_index=np.arange(clients),
        client_starts=np.arange(clients + 1),
        train=Ragged(work.starts, work.positives),
        validation=nothing,
        test=nothing,
        evaluation_negatives=None,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
