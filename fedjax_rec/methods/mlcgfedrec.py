"""MLCGFedRec: labels of many levels, made of updates that carry taste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import Broadcast, Info, Method, Traffic
from fedjax_rec.methods.item_labels import LabelKind, clusters, codes
from fedjax_rec.methods.shared_items import ItemUpload, shared_items

__all__ = ["MLCGFedRecConfig", "mlcgfedrec"]


@dataclass(frozen=True)
class MLCGFedRecConfig(ItemUpload):
    """Options of MLCGFedRec; the defaults are what validation on ML-100K chose.

    Attributes:
      labels: "codes": each item's level in --dim coordinates of the mean update. "clusters": its
        k-means labels of several --granularities. Both: and its level of popularity.
      dim: d, coordinates; clients upload one column more, which counts.
      label_bits: bits of a level, of a coordinate or of popularity.
      granularities: numbers of clusters, of --labels clusters.
      popularity_weight: weight of the level of popularity (0 to 1) in the scores; unset: 0.05 with
        codes, 3 with clusters.
      heads: what a client's head is. "labels": in the first round a random draw of its own, then
        the sum of its positives' coordinates, as the labels give them. "private": a draw of its own
        in every round. "shared": the same draw for all, as in the published method.
      accumulate: how many rounds' updates the server makes labels of; more than one helps
        --heads private alone.
      negatives: sampled negatives a positive.
      negative_weight: weight of a negative beside a positive's 1; unset: 1 / negatives, so that
        the two sides balance and unpopular items do not drown in their draws.
      without: "sharing": nothing is uploaded or sent; each client trains its own items with its own
        head, the control.
    """

    labels: Literal["codes", "clusters"] = "codes"
    dim: int = 16
    label_bits: int = 4
    granularities: tuple[int, ...] = (10, 30, 60, 120, 240, 480)
    popularity_weight: float | None = None
    heads: Literal["labels", "private", "shared"] = "labels"
    accumulate: int = 1
    negatives: int = 4
    negative_weight: float | None = None
    without: Literal["sharing"] | None = None

    # Read by `shared_items`: nothing moves but what a round's samples name.
    weight_decay: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        ItemUpload.__post_init__(self)
        check_choice("labels", self.labels, ("codes", "clusters"))
        check_choice("heads", self.heads, ("labels", "private", "shared"))
        if self.without is not None:
            check_choice("without", self.without, ("sharing",))
        for name, least, most in (
            ("dim", 1, 1024),
            ("label_bits", 1, 8),
            ("accumulate", 1, 1000),
            ("negatives", 1, 10**6),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name}={getattr(self, name)} must be from {least} to {most}")
        if not self.granularities or min(self.granularities) < 1:
            given = " ".join(map(str, self.granularities)) or "none"
            raise InputError(f"granularities={given}: give one or more numbers of clusters")
        for name in ("popularity_weight", "negative_weight"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")

    def kind(self) -> LabelKind:
        """The labels that these options name."""
        weight = self.popularity_weight
        if self.labels == "codes":
            return codes(self.dim, self.label_bits, 0.05 if weight is None else weight)
        weight = 3.0 if weight is None else weight
        return clusters(self.granularities, self.dim, self.label_bits, weight)


class Download(NamedTuple):
    labels: Any  # Codes or Clusters
    known: jax.Array  # [] bool, whether there are labels yet
    passed: jax.Array  # [] int32, rounds so far; clients count them as well, so it costs nothing


class Server(NamedTuple):
    updates: jax.Array  # [accumulate, m, d + 1] float32, mean updates, the latest first
    participants: jax.Array  # [] float32, of the last round
    download: Download


class Alone(NamedTuple):
    """What a client of the control keeps."""

    heads: jax.Array  # [U, d + 1] float32
    items: jax.Array  # [m, d + 1] float32, the sum of its own updates


class Working(NamedTuple):
    """A client within a round, or while it is scored."""

    kept: Any  # Alone, or ()
    heads: jax.Array  # [U, d + 1] float32: a vector of length 1, and a 1
    profile: jax.Array  # [U, F] float32, of its positives' labels


def mlcgfedrec(config: MLCGFedRecConfig) -> Method:
    """Multi-level cluster-guided federated recommendation: item labels down, and nothing else.

    A round. A client takes one step of BCE on its samples, items starting from zero and its head
    w fixed: item i moves by ½·(Σ positives w − ν·Σ negatives w), and that is its upload. The server
    takes the mean, finds its principal coordinates, writes each item's place in them as labels of a
    few bits, and sends the labels. A client scores all items by the labels of its positives.

    Why this carries taste where the published form does not. The mean update is Σ_u y_ui·w_u, a
    projection of the interaction matrix Y by the clients' heads. With one head for all it is
    popularity times that head: rank one. With a head of each client's own it is a random sketch of
    Y, whose inner products estimate co-occurrence. And with the head that follows from the labels
    of a client's positives it is YᵀYZ for the labels' coordinates Z: one step of subspace iteration
    towards the leading singular vectors, which nobody has to send. Labels are all that goes down.

    No state stays on the clients, and nothing decays over the rounds: each starts from the labels.

    Args:
      config: options.

    Differs from CGFedRec: the heads, the start of items from zero with a step from score 0 (so
    memorized negatives cannot build up), balanced negatives, labels of many levels instead of one
    clustering, and scores by the labels instead of a contrastive term on own embeddings. What each
    is worth: ``benchmarks/honest_structures.py``.

    A server that sees single uploads sees whose samples they name, as with every method here that
    uploads item tables; what it needs is their sum alone, so secure aggregation fits. Clip and
    noise (``clip``, ``laplace``) act on every row of a table.

    Reference:
      Subspace iteration: Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review
      2011, Algorithm 4.4. No paper has this method.
    """
    shares = config.without is None
    width = config.dim + 1
    kind = config.kind()
    table = shared_items(config)
    negative_weight = config.negative_weight
    if negative_weight is None:
        negative_weight = 1 / config.negatives

    def init(key: jax.Array, problem: Problem) -> Server:
        m = problem.num_items
        if config.labels == "clusters" and max(config.granularities) > m:
            raise InputError(
                f"granularities={' '.join(map(str, config.granularities))}: at most the {m} items "
                f"of {problem.dataset.name}"
            )
        download = Download(kind.empty(m), jnp.bool_(False), jnp.int32(0))
        updates = jnp.zeros((config.accumulate, m, width))
        return Server(updates, jnp.float32(0), download)

    def init_client(key: jax.Array, server: Server, num_users: int) -> Any:
        if shares:
            return ()
        return Alone(random_heads(key, num_users), jnp.zeros(server.updates.shape[1:]))

    def random_heads(key: jax.Array, users: int) -> jax.Array:
        return to_heads(jax.random.normal(key, (users, config.dim)))

    def to_heads(vectors: jax.Array) -> jax.Array:
        """[U, d] vectors -> [U, d + 1], of length 1, and the coordinate that is 1 for all."""
        length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        taste = vectors / jnp.maximum(length, 1e-12)
        return jnp.concatenate([taste, jnp.ones((len(vectors), 1))], axis=1)

    def all_know(download: Download) -> jax.Array:
        """A key that server and clients have without sending it."""
        return jax.random.fold_in(jax.random.key(0), download.passed)

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=server.download)

    def receive(key: jax.Array, client: Any, download: Broadcast, data: ClientData) -> Working:
        shared: Download = download.shared
        slots = data.num_users
        present = (jnp.arange(len(data.items)) < data.positives).astype(jnp.float32)
        profile = kind.profile(shared.labels, data.items, data.users, present, slots)
        if not shares:
            return Working(client, client.heads, profile)
        if config.heads == "shared":
            heads = jnp.broadcast_to(random_heads(jax.random.key(0), 1), (slots, width))
        else:
            heads = random_heads(key, slots)
        if config.heads == "labels":
            rows = kind.coordinates(shared.labels, all_know(shared))[data.items]
            sums = jnp.zeros((slots, config.dim)).at[data.users].add(rows * present[:, None])
            heads = jnp.where(shared.known, to_heads(sums), heads)
        return Working(client, heads, profile)

    def local_update(
        key: jax.Array, client: Working, download: Broadcast, data: ClientData
    ) -> tuple[Working, Any, Info]:
        labels = download.shared.labels
        start = jnp.zeros((len(labels.popularity), width))
        held, samples = table.begin(key, start, data)
        each = 1 + config.negatives
        positive = jnp.arange(len(samples.items)) % each == 0
        # The gradient of BCE at score 0, where σ is ½.
        step = jnp.where(positive, 0.5, -0.5 * negative_weight) * samples.valid
        change = step[:, None] * client.heads[samples.users]
        held = held._replace(rows=held.rows.at[samples.items].add(change))
        items = samples.items if isinstance(held.items, tuple) else held.items[samples.items]
        if not shares:
            own = client.kept.items.at[items].add(change, mode="drop")
            client = client._replace(kept=client.kept._replace(items=own))
        found = scores_of(client, labels, samples.users, jnp.minimum(items, len(start) - 1))
        found = found.reshape(-1, each)
        valid = samples.valid.reshape(-1, each)[:, 1:]
        lost = jnp.sum((found[:, 1:] >= found[:, :1]) & valid) / jnp.maximum(jnp.sum(valid), 1)
        return client, table.upload(start, held), Info(lost)

    def scores_of(client: Working, labels: Any, users: jax.Array, items: Any = None) -> jax.Array:
        if shares:
            return kind.scores(labels, client.profile, users, items)
        rows = client.kept.items if items is None else client.kept.items[items]
        return jnp.sum(rows * client.heads[users], axis=-1)

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        mean = table.mean(jnp.zeros_like(server.updates[0]), reduced)
        updates = jnp.concatenate([mean[None], server.updates[:-1]])
        return server._replace(updates=updates, participants=reduced.weight)

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        if not shares:
            return server
        seed = int(rng.integers(2**31))
        updates = np.asarray(server.updates)[:round_]
        sketch = np.concatenate([*updates[:, :, :-1]], axis=1)
        labels = kind.make(sketch, updates[0, :, -1], float(server.participants), seed)
        known = Download(labels, jnp.bool_(True), jnp.int32(round_))
        return server._replace(download=known)

    def traffic(download: Broadcast, upload: Any, sent: Any) -> Traffic:
        if not shares:
            return Traffic(down=(), up=())
        shared: Download = download.shared
        rows = jax.ShapeDtypeStruct((len(shared.labels.popularity), width), jnp.float32)
        down = kind.wire(shared.labels) if bool(shared.known) else ()
        return Traffic(down=down, up=table.wire(rows, sent))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        if not bool(server.download.known):
            return {}
        labels = server.download.labels
        if config.labels == "clusters":
            return {"labels": np.asarray(labels.labels[:, 0])}
        return {"item_embeddings": np.asarray(kind.coordinates(labels, jax.random.key(0)))}

    return Method(
        name="mlcgfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        retain=lambda client: client.kept,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        accumulator=lambda server: table.accumulator(server.updates[0]),
        reduce=table.reduce,
        server_step=server_step,
        between_rounds=between_rounds,
        scores=lambda client, shared, user: scores_of(client, shared.labels, user),
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        default_rounds=10,
        published_evaluation="download",
    )
