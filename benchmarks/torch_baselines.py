"""The per-client PyTorch loops that the rounds of FedNCF, FedRAP and GPFedRec are compared with.

Written from the formulas, in the shape that the public releases share: clients are trained one
after another; each gets a deep copy of the model, a module with `nn.Embedding` tables, loads what
it keeps and what it downloads, draws its samples, and steps a fresh optimizer of `torch.optim`
batch by batch; a copy of its `state_dict` is its upload, and the server adds these up in a loop.
GPFedRec's server compares all tables in one matrix product and mixes them in another.

A round comes in two forms. "release" draws each positive's negatives by themselves and batches by a
`DataLoader`, as the releases do. "lean" draws all negatives of a client at once and slices batches
out of a permuted tensor. All else is the same.

Reference: the formulas are those of `fedjax_rec.methods.fedncf`, `fedrap` and `gpfedrec`, which
name the papers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch_loop import draw_samples, unseen_items
from torch_modules import Additive, NeuMF, UserNetwork

from fedjax_rec.data import Problem

__all__ = ["LOOPS", "Batches", "Form", "Loop", "Round", "State", "Trained", "run_round"]

Form = Literal["release", "lean"]
StateDict = dict[str, Tensor]
# Number of the local epoch -> its batches: items [n] int64 and labels [n] float32.
Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class State(NamedTuple):
    """What a round starts from.

    Attributes:
      shared: what every client downloads, by name in the model's `state_dict`.
      own: what each client keeps, likewise, by client id.
      targets: [K, m, d] float32, GPFedRec's E_k by client id; None for the others.
      passed: rounds before this one.
    """

    shared: StateDict
    own: Mapping[int, StateDict]
    targets: Tensor | None
    passed: int


class Trained(NamedTuple):
    """What a client's local training was like: the mean BCE of its batches, and how many."""

    loss: float
    steps: int


class Loop(NamedTuple):
    """One method.

    Attributes:
      model: (config, number of items) -> the module that clients copy, of any values.
      state: (server, clients, passed) -> State; both as `Engine` gives them, NumPy by client id.
      train: (model, batches, config, State, client) -> Trained; trains the model in place.
      weighted: whether a client counts by its positives; else all count alike.
      finish: (uploads by client id, config, State) -> State.shared and .targets of the next round,
        where the mean of the uploads is not all of the server's work; None: it is.
    """

    model: Callable[[Any, int], nn.Module]
    state: Callable[[Any, Any, int], State]
    train: Callable[[Any, Batches, Any, State, int], Trained]
    weighted: bool = False
    finish: Callable[[Mapping[int, StateDict], Any, State], tuple[StateDict, Tensor]] | None = None


class Round(NamedTuple):
    """What a round leaves, and where its time went.

    Attributes:
      state: what the next round starts from; `own` has the clients that were trained.
      loss: mean over clients.
      steps: batches of all clients.
      training_seconds: draws, batches, steps, and the copies around them.
      server_seconds: means, and the user graph.
    """

    state: State
    loss: float
    steps: int
    training_seconds: float
    server_seconds: float


def run_round(
    loop: Loop,
    problem: Problem,
    state: State,
    config: Any,
    *,
    clients: Sequence[int],
    seed: int,
    form: Form = "release",
) -> Round:
    """One round of the given clients.

    Args:
      loop: the method.
      problem: who holds what; one user a client.
      state: what they start from.
      config: the method's config of the package.
      clients: who is trained. Where the server needs every upload, the others "upload" their
        target, so that its work is that of all clients.
      seed: of the draws.
      form: see above.

    Raises:
      ValueError: if a client holds several users, or for options that a loop does not have.
    """
    if (problem.users_per_client != 1).any():
        raise ValueError(
            "torch_baselines trains one user a client: make the problem without clients="
        )
    rng = np.random.default_rng(seed)
    template = loop.model(config, problem.num_items)
    unseen = {client: unseen_items(problem, client) for client in clients}
    own: dict[int, StateDict] = {}
    uploads: dict[int, StateDict] = {}
    reports = []
    start = time.perf_counter()
    for client in clients:
        model = copy.deepcopy(template)
        model.load_state_dict({**state.own[client], **state.shared})
        batches = _batches(problem.train[client], unseen[client], config, rng, form)
        reports.append(loop.train(model, batches, config, state, client))
        trained = copy.deepcopy(model.state_dict())
        uploads[client] = {name: trained[name] for name in state.shared}
        own[client] = {name: trained[name] for name in state.own[client]}
    training_seconds = time.perf_counter() - start

    start = time.perf_counter()
    if loop.finish is None:
        weights = [len(problem.train[client]) if loop.weighted else 1 for client in clients]
        shared, targets = _mean(list(uploads.values()), weights), None
    else:
        shared, targets = loop.finish(uploads, config, state)
    server_seconds = time.perf_counter() - start
    return Round(
        State(shared, own, targets, state.passed + 1),
        loss=float(np.mean([report.loss for report in reports])),
        steps=sum(report.steps for report in reports),
        training_seconds=training_seconds,
        server_seconds=server_seconds,
    )


def _fedncf_state(server: Any, clients: Any, passed: int) -> State:
    gmf, mlp = np.split(np.asarray(server.items), 2, axis=1)
    shared = {"items_gmf.weight": gmf, "items_mlp.weight": mlp}
    names = _tower_names(len(server.network) - 1)
    for name, layer in server.network.items():
        shared |= {f"{names[name]}.weight": layer[:, :-1], f"{names[name]}.bias": layer[:, -1]}
    own = {f"{name}.weight": rows for name, rows in clients.user.items()}
    return State(_tensors(shared), _by_client(own), None, passed)


def _train_fedncf(
    model: NeuMF, batches: Batches, config: Any, state: State, client: int
) -> Trained:
    """Adam on everything at once. Its moments are new every round."""
    tables = [model.items_gmf.weight, model.items_mlp.weight]
    others = [model.user_gmf, model.user_mlp, model.tower, model.output]
    optimizer = torch.optim.Adam(
        [
            {"params": [each for part in others for each in part.parameters()], "lr": config.lr},
            {"params": tables, "lr": config.items_rate(len(tables[0]))},
        ],
        weight_decay=config.weight_decay,
        fused=True,
    )
    losses = []
    for epoch in range(config.local_epochs):
        for items, labels in batches(epoch):
            loss = functional.binary_cross_entropy_with_logits(model(items), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return Trained(float(np.mean(losses)), len(losses))


def _fedrap_state(server: Any, clients: Any, passed: int) -> State:
    own = {
        "personal.weight": clients.personal,
        "head.weight": clients.head["kernel"],
        "head.bias": clients.head["bias"],
    }
    return State(_tensors({"common.weight": server.common}), _by_client(own), None, passed)


def _train_fedrap(
    model: Additive, batches: Batches, config: Any, state: State, client: int
) -> Trained:
    """SGD on BCE − λ(t)·MSE(D, C) + μ(t)·mean|C|, rates fading by the step; stops early."""
    if (config.ramp, config.penalty) != ("tanh", "l1"):
        raise ValueError("this loop has the tanh ramp and the l1 penalty only")
    level, fading = math.tanh(state.passed / 10), config.round_decay**state.passed
    common = config.items_rate(model.common.num_embeddings)
    personal = common if config.personal_lr is None else config.personal_lr
    optimizer = torch.optim.SGD(
        [
            {"params": list(model.head.parameters()), "lr": config.lr * fading},
            {"params": [model.personal.weight], "lr": personal * fading},
            {"params": [model.common.weight], "lr": common * fading},
        ],
        weight_decay=config.weight_decay,
    )
    fade = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.step_decay)
    losses: list[float] = []
    total, count, before = 0.0, 0, math.nan
    for epoch in range(config.local_epochs):
        for items, labels in batches(epoch):
            d, c = model.personal(items), model.common(items)
            logits = model.head(d + c).squeeze(-1)
            entropy = functional.binary_cross_entropy_with_logits(logits, labels)
            apart, sparse = functional.mse_loss(d, c), c.abs().mean()
            loss = (
                entropy
                - config.apart_weight * level * apart
                + config.sparse_weight * level * sparse
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            fade.step()
            losses.append(entropy.item())
            total, count = total + len(items) * loss.item(), count + len(items)
        mean = total / count
        if abs(mean - before) < config.tolerance * abs(before):  # never in the first: NaN
            break
        before = mean
    return Trained(float(np.mean(losses)), len(losses))


def _gpfedrec_state(server: Any, clients: Any, passed: int) -> State:
    user = clients.user
    names = _tower_names(len(user) - 2)
    own = {"user.weight": user["embedding"]}
    for name, layer in user.items():
        if name != "embedding":
            own[f"{names[name]}.weight"] = np.swapaxes(layer["kernel"], 1, 2)
            own[f"{names[name]}.bias"] = layer["bias"]
    targets = torch.from_numpy(np.array(server.targets.rows))
    return State(_tensors({"items.weight": server.items}), _by_client(own), targets, passed)


def _train_gpfedrec(
    model: UserNetwork, batches: Batches, config: Any, state: State, client: int
) -> Trained:
    """SGD on BCE + MSE(E, E_k), everything at once."""
    assert state.targets is not None
    target = state.targets[client]
    network = [*model.tower.parameters(), *model.output.parameters()]
    items_rate = config.items_rate(model.items.num_embeddings)
    optimizer = torch.optim.SGD(
        [
            {"params": network, "lr": config.lr},
            {"params": [model.user.weight], "lr": config.lr * config.user_lr_scale},
            {"params": [model.items.weight], "lr": items_rate},
        ],
        weight_decay=config.weight_decay,
    )
    losses = []
    for epoch in range(config.local_epochs):
        for items, labels in batches(epoch):
            entropy = functional.binary_cross_entropy_with_logits(model(items), labels)
            away = functional.mse_loss(model.items.weight, target)
            optimizer.zero_grad()
            (entropy + config.target_weight * away).backward()
            optimizer.step()
            losses.append(entropy.item())
    return Trained(float(np.mean(losses)), len(losses))


def _finish_gpfedrec(
    uploads: Mapping[int, StateDict], config: Any, state: State
) -> tuple[StateDict, Tensor]:
    """The graph of users above the mean similarity, and the tables averaged over neighbours."""
    if config.neighbours is not None or config.similarity != "cosine":
        raise ValueError("this loop links users by cosine and threshold only")
    assert state.targets is not None
    tables = state.targets.clone()
    for client, upload in uploads.items():
        tables[client] = upload["items.weight"]
    flat = tables.reshape(len(tables), -1)
    products = flat @ flat.T
    norms = products.diagonal().sqrt()
    similarity = products / (norms[:, None] * norms)
    linked = similarity > config.neighbour_threshold * similarity.mean()
    alone = ~linked.any(dim=1)
    linked[alone, alone.nonzero()[:, 0]] = True
    weights = linked / linked.sum(dim=1, keepdim=True)
    for _ in range(config.message_layers):
        flat = weights @ flat
    targets = flat.reshape(tables.shape)
    return {"items.weight": targets.mean(dim=0)}, targets


LOOPS: Mapping[str, Loop] = {
    "fedncf": Loop(
        model=lambda config, items: NeuMF(items, config.dim, config.layers),
        state=_fedncf_state,
        train=_train_fedncf,
        weighted=True,
    ),
    "fedrap": Loop(
        model=lambda config, items: Additive(items, config.dim),
        state=_fedrap_state,
        train=_train_fedrap,
    ),
    "gpfedrec": Loop(
        model=lambda config, items: UserNetwork(items, config.dim, config.layers),
        state=_gpfedrec_state,
        train=_train_gpfedrec,
        finish=_finish_gpfedrec,
    ),
}
"""The three loops, by the method's name."""


def _batches(
    positives: np.ndarray,
    unseen: np.ndarray,
    config: Any,
    rng: np.random.Generator,
    form: Form,
) -> Batches:
    """A client's samples of the round, shuffled anew in every epoch."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if form == "release":
        loader: DataLoader = DataLoader(
            draw_samples(positives, unseen, config.negatives, rng),
            batch_size=config.batch_size,
            shuffle=True,
            generator=generator,
        )
        return lambda epoch: loader
    drawn = rng.choice(unseen, size=len(positives) * config.negatives)
    items = torch.from_numpy(np.concatenate([positives, drawn]).astype(np.int64))
    labels = (torch.arange(len(items)) < len(positives)).float()

    def slices(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(items), generator=generator)
        return zip(
            items[order].split(config.batch_size),
            labels[order].split(config.batch_size),
            strict=True,
        )

    return slices


def _mean(uploads: Sequence[StateDict], weights: Sequence[int]) -> StateDict:
    """The weighted mean of every entry, summed client by client."""
    total = {name: torch.zeros_like(entry) for name, entry in uploads[0].items()}
    for upload, weight in zip(uploads, weights, strict=True):
        for name, entry in upload.items():
            total[name] += weight * entry
    return {name: entry / sum(weights) for name, entry in total.items()}


def _tensors(arrays: Mapping[str, Any]) -> StateDict:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _by_client(arrays: Mapping[str, Any]) -> dict[int, StateDict]:
    """[K, …] arrays as one `state_dict` a client."""
    tensors = _tensors(arrays)
    count = len(next(iter(tensors.values())))
    return {
        client: {name: rows[client] for name, rows in tensors.items()} for client in range(count)
    }


def _tower_names(layers: int) -> dict[str, str]:
    """The package's names of the layers -> those here, where every second module is a ReLU."""
    return {f"layer_{k}": f"tower.{2 * k}" for k in range(layers)} | {"output": "output"}
