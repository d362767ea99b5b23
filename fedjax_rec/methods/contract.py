"""The method contract: what a federated recommender is made of, and nothing about how it runs.

A round of a method is

    broadcast → receive → local_update → uplink → reduce → server_step → between_rounds
              → server_finish

Client functions (``init_client``, ``receive``, ``local_update``, ``retain``, ``scores``) are
written for ONE client, as if there were no other. The engine alone decides how many run side by
side: it vmaps, loops, chunks and shards them. A new method is one file that fills this tuple, and
one line in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink as uplink_transforms
from fedjax_rec.batches import ClientData

__all__ = [
    "Broadcast",
    "ByClient",
    "EvaluateAt",
    "Info",
    "Method",
    "Traffic",
    "Uploads",
    "identity_between_rounds",
    "identity_receive",
    "no_diagnostics",
    "no_epsilon",
    "WeightedSum",
    "weighted_mean",
    "weighted_sum",
]

EvaluateAt = Literal["download", "trained"]
PyTree = Any


class ByClient(NamedTuple):
    """What a server has of every client, in its state or its broadcast: sharded as clients are.

    ``init`` makes it in order of client id, and checkpoints keep it so. In a run its rows lie as
    those of ``Uploads``: R of them, in an order of the engine's, some of nobody. So a server
    computes with it beside the uploads of the round, and never by client id.

    Attributes:
      rows: pytree of arrays [K, …] in ``init``, [R, …] in a run.
    """

    rows: PyTree


class Broadcast(NamedTuple):
    """What clients download.

    Attributes:
      shared: pytree that all clients get alike (not batched).
      per_client: each client's own part, ``ByClient``; None when there is none. A client sees its
        own row in its place.
    """

    shared: PyTree
    per_client: PyTree = None


class Uploads(NamedTuple):
    """What the clients of a round have uploaded, kept one by one and sharded over the devices.

    Attributes:
      values: an upload's pytree with a leading axis of R rows; of any content where nobody is.
      client: [R] int32, whose upload it is; -1: nobody's, or of one who took no part.
    """

    values: PyTree
    client: jax.Array


class Traffic(NamedTuple):
    """What travels for one client in one round, each a pytree of ``uplink.WireFormat``.

    Attributes:
      down: the download, as the wire carries it (labels in their bit width, not as int32).
      up: the upload before the uplink transforms, which change it further.
    """

    down: PyTree
    up: PyTree


class Info(NamedTuple):
    """What a client's local training reports.

    Attributes:
      loss: [] float32, mean training loss over the round's batches, each taken before its step.
    """

    loss: jax.Array


def no_epsilon(upload: PyTree, rounds: int) -> float | None:
    """An uplink that hides nothing."""
    return None


def no_diagnostics(server: PyTree) -> dict[str, float | int | None]:
    """A server with nothing to tell."""
    return {}


class Method(NamedTuple):
    """A federated recommender. ``S`` is its server state, ``C`` one client's state.

    Attributes:
      name: registry name.
      config: the frozen dataclass of its options.
      init: (key, problem) -> S. Raises InputError where the options do not fit the problem.
      init_client: (key, S, num_users) -> C before the first round, with room for ``num_users``.
      broadcast: S -> Broadcast.
      receive: (key, C, Broadcast, ClientData) -> C: what a client does with a download.
      local_update: (key, C, Broadcast, ClientData) -> (C, upload, Info).
      retain: C -> C': what a client keeps until the next round. A client whose items are
        overwritten by the next download need not keep them; ``receive`` takes C' as well.
      uplink: the transform that an upload passes before it leaves.
      weight: ClientData -> [] float, the client's weight in the reduction.
      reduce: (acc, uploads, weights) -> (acc, sent), with uploads [n, …] and weights [n] of n
        clients; ``acc`` is ``accumulator``'s at first, or None where there is none. Must be
        additive: accumulators of two groups are summed.
        ``sent`` is None where the shapes of an upload say how large it is; else a pytree of [n]
        int32: how many values each client's upload really held (non-zeros of a sparse matrix).
      server_step: (key, S, reduced) -> S, jitted. (key, S, reduced, Uploads) where they are kept.
      between_rounds: (rng, round, S) -> S on the host, between rounds; ``rng`` is a NumPy
        generator. What S has as ``ByClient`` stays on the devices: the host sees it without rows.
      server_finish: (key, S, Uploads or None) -> S, jitted: what the devices do with the host's
        work; None: nothing.
      keep_uploads: whether the server needs every single upload at once, as for similarities of
        clients. They stay on the devices, R rows of them, until the round's server work is done.
      scores: (C, shared, user) -> [m] scores of all items for one user slot.
      traffic: (Broadcast, upload, sent) -> Traffic of ONE client, whose own row is
        ``per_client``. Arrays may be shape structs, but for what the formats depend on. ``sent``
        is that client's part of what ``reduce`` counted, as Python ints, or None. Called once for
        every distinct ``sent`` of a round, so it must be cheap: a count of the download that it
        needs belongs into the broadcast.
      item_view: S -> dict of arrays for people to look at: "item_embeddings" [m, d] and
        "labels" [m], each where the method has such.
      accumulator: S -> the empty ``acc``, all zeros, where uploads do not tell its shape. None:
        they do.
      epsilon: (upload, rounds) -> ε of a client that uploads so often, or None where its uplink
        gives none.
      diagnostics: S -> named figures of the server's state for the history, such as "modularity";
        None or NaN where one is not known. A method gives the same names every round.
      centralized: whether one client holds all users' data: a reference, not a federation.
      default_rounds: rounds when the user names none.
      published_evaluation: the point at which the method's own release scores its clients.
    """

    name: str
    config: Any
    init: Callable[..., PyTree]
    init_client: Callable[..., PyTree]
    broadcast: Callable[[PyTree], Broadcast]
    receive: Callable[..., PyTree]
    local_update: Callable[..., tuple[PyTree, PyTree, Info]]
    retain: Callable[[PyTree], PyTree]
    uplink: uplink_transforms.Transform
    weight: Callable[[ClientData], jax.Array]
    reduce: Callable[..., tuple[PyTree, PyTree]]
    server_step: Callable[..., PyTree]
    between_rounds: Callable[..., PyTree]
    scores: Callable[..., jax.Array]
    traffic: Callable[..., Traffic]
    item_view: Callable[[PyTree], dict[str, np.ndarray]]
    accumulator: Callable[[PyTree], PyTree] | None = None
    keep_uploads: bool = False
    server_finish: Callable[..., PyTree] | None = None
    epsilon: Callable[[PyTree, int], float | None] = no_epsilon
    diagnostics: Callable[[PyTree], dict[str, float | int | None]] = no_diagnostics
    centralized: bool = False
    default_rounds: int = 100
    published_evaluation: EvaluateAt = "trained"


class WeightedSum(NamedTuple):
    """Running Σ w_k·upload_k (a pytree like one upload) and Σ w_k ([] float32)."""

    total: PyTree
    weight: jax.Array


def weighted_sum(
    acc: WeightedSum | None, uploads: PyTree, weights: jax.Array
) -> tuple[WeightedSum, None]:
    """Adds a group's uploads to a running weighted sum: the default reduction.

    Every upload is as large as its shapes say, so there is nothing to count.
    """

    def weighted(x):
        # A sum of products, not a dot: XLA fuses it with the addition to ``acc``.
        return jnp.sum(weights.reshape(-1, *[1] * (x.ndim - 1)) * x, axis=0)

    here = WeightedSum(jax.tree.map(weighted, uploads), jnp.sum(weights))
    return (here if acc is None else jax.tree.map(jnp.add, acc, here)), None


def weighted_mean(reduced: WeightedSum) -> PyTree:
    """The mean that a ``weighted_sum`` amounts to. At least one weight is positive: the engine
    refuses an empty cohort."""
    return jax.tree.map(lambda x: x / reduced.weight, reduced.total)


def identity_receive(key, client, broadcast, data):
    """A client that does nothing with the download but keep it for its training."""
    return client


def identity_between_rounds(rng, round_, server):
    """A server with no host work."""
    return server
