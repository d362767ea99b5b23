"""FedCA: every client's own mix of all item tables, weighted by similarity and complementarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import (
    Broadcast,
    ByClient,
    Info,
    Method,
    Traffic,
    Uploads,
    identity_between_rounds,
)
from fedjax_rec.methods.kept_uploads import everyone_has, sum_of_values
from fedjax_rec.methods.local_training import LocalTraining, train_locally
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.methods.traced import traced
from fedjax_rec.methods.uplink_options import Uplink
from fedjax_rec.models import MF, score
from fedjax_rec.relations import (
    complementarity,
    component_similarity,
    draw_clients,
    first_component,
    mix_tables,
    principal_basis,
    project_to_simplex,
)

__all__ = ["FedCAConfig", "composite_weights", "fedca"]


@dataclass(frozen=True)
class FedCAConfig(LocalTraining, Uplink):
    """Options of FedCA, with the defaults of its release for its backbone FCF.

    Attributes:
      complementarity_weight: λ1, of c, how alike the principal subspaces of two clients' items are.
      similarity_weight: λ2, of s, how near two clients' tables are.
      components: dimensions of a client's principal subspace.
      interpolation: share of a client's own table in what it goes on from, and is scored on; the
        rest is the server's mix for it.
      mixed_share: part of a round's clients, drawn anew, that the server mixes among each other;
        the others keep their own tables. The release, whose solver is slow, has 0.1.
    """

    dim: int = 16
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 0.01
    item_lr: float | None = 0.01
    local_epochs: int = 10
    complementarity_weight: float = 0.3
    similarity_weight: float = 0.3
    components: int = 4
    interpolation: float = 0.9
    mixed_share: float = 1.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = (
        "complementarity_weight",
        "similarity_weight",
        "interpolation",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("complementarity_weight", "similarity_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if not 1 <= self.components <= self.dim:
            raise InputError(f"components={self.components} must be from 1 to dim={self.dim}")
        if not 0 <= self.interpolation <= 1:
            raise InputError(f"interpolation={self.interpolation} must be from 0 to 1")
        if not 0 < self.mixed_share <= 1:
            raise InputError(f"mixed_share={self.mixed_share} must be above 0 and at most 1")


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, mean of the mixes; never sent
    mixes: ByClient  # [K, m, d] float32, each client's own


class Client(NamedTuple):
    user: Any  # MF parameters
    items: jax.Array  # [m, d] float32, the client's own for good


class Upload(NamedTuple):
    """What a client uploads.

    Attributes:
      items: [m, d] float32, its table.
      basis: [components, d] float32, the principal subspace of the items that it met. Made by the
        client, so that the server need not know which items these are.
      positives: [] int32, |D_k|, its training interactions.
    """

    items: jax.Array
    basis: jax.Array
    positives: jax.Array


def fedca(config: FedCAConfig) -> Method:
    """Composite aggregation: not only similar clients help, complementary ones do as well.

    Clients train a matrix factorization on their own table, starting from 0.9 of it and 0.1 of the
    server's mix for them, and upload the table and the principal subspace of the items they met.
    The server's weights of a client are w = argmin ‖w − (p + λ1·c + λ2·s)‖² on the simplex, with p
    the clients' shares of the data, c the cosine of the mean principal angle between two clients'
    subspaces, and s = 1/(1 + distance of their tables' first principal components). The quadratic
    program has the identity as its matrix, so a projection solves it exactly, for all clients at
    once. (The release asks a general solver, client by client.)

    A client that takes no part in a round keeps the mix that it had.

    Args:
      config: options.

    The backbone is its release's default, FCF: σ(u·v), Adam, rebuilt every round. The server sees
    |D_k|, as it does wherever clients weigh by it.

    Differs from the paper: formulas as in its release, which leaves less open, but for these. It
    finds angles by pairing basis vectors greedily, which are not the principal angles; it takes
    subspaces of all samples, negatives too, we of the positives; it rounds s from 0.9 up to 1. The
    sign of a principal component is arbitrary, so we take the nearer of two. It mixes a tenth of
    the clients a round (``preset="release"``). Our users start from draws of their own, and do not
    stop their epochs early.

    Reference:
      Zhang et al., "Beyond Similarity: Personalized Federated Recommendation with Composite
      Aggregation", arXiv:2406.03933.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        items = config.initial_items(key, problem.num_items)
        return Server(items, everyone_has(items, problem))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        model = MF(num_users, config.init_std)
        user = model.init(key, jnp.int32(0), server.items[:1])["params"]
        return Client(user, server.items)

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=(), per_client=server.mixes)

    def receive(key: jax.Array, client: Client, download: Broadcast, data: ClientData) -> Client:
        own = traced(config).interpolation
        return client._replace(items=own * client.items + (1 - own) * download.per_client)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Upload, Info]:
        user, items, info = _train(key, client, data, config)
        mask = jnp.arange(len(data.items)) < data.positives
        basis = principal_basis(items[data.items], mask, config.components)
        return Client(user, items), Upload(items, basis, jnp.int32(data.positives)), info

    def server_step(key: jax.Array, server: Server, reduced: Any, uploads: Uploads) -> Server:
        present = uploads.client >= 0
        mixed = present
        if config.mixed_share < 1:
            count = jnp.maximum(1, jnp.floor(config.mixed_share * jnp.sum(present)))
            mixed = draw_clients(key, uploads.client, count)
        tables = uploads.values.items
        weights = composite_weights(uploads.values, mixed, config)
        # Whoever is not mixed this time has its own table: interpolation then changes nothing.
        weights = jnp.where(mixed[:, None], weights, jnp.eye(len(present)))
        new = mix_tables(weights, tables, present, server.mixes.rows)
        return Server(new.mean, ByClient(new.tables))

    def scores(client: Client, shared: tuple[()], user: jax.Array) -> jax.Array:
        model = MF(len(client.user["embedding"]), config.init_std)
        return score(model, client.user, user, client.items)

    def traffic(download: Broadcast, upload: Upload, sent: None) -> Traffic:
        return Traffic(down=uplink.dense(download.per_client), up=uplink.dense(upload))

    def epsilon(upload: Upload, rounds: int) -> float | None:
        rows = upload.items.shape[0] + upload.basis.shape[0]
        both = jax.ShapeDtypeStruct((rows, config.dim), upload.items.dtype)
        return config.epsilon(both, rounds)

    return Method(
        name="fedca",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        reduce=sum_of_values,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=lambda server: {"item_embeddings": np.asarray(server.items)},
        keep_uploads=True,
        epsilon=epsilon,
        published_evaluation="download",
    )


def composite_weights(uploads: Upload, present: jax.Array, config: FedCAConfig) -> jax.Array:
    """The weights with which the server mixes all tables for each client.

    Args:
      uploads: of R rows.
      present: [R] bool, whose uploads count.
      config: λ1 and λ2.

    Returns:
      [R, R] float32: rows of those present are on the simplex, 0 in columns of the others. Rows of
      the others mean nothing.
    """
    now = traced(config)
    positives = jnp.where(present, uploads.positives, 0).astype(jnp.float32)
    wanted = positives / jnp.maximum(jnp.sum(positives), 1)
    if config.complementarity_weight:
        found = complementarity(uploads.basis, present)
        wanted = wanted + now.complementarity_weight * found
    if config.similarity_weight:
        along = first_component(uploads.items, present)
        wanted = wanted + now.similarity_weight * component_similarity(along, present)
    wanted = jnp.broadcast_to(wanted, (len(present), len(present)))
    return project_to_simplex(wanted, present)


def _train(key, client, data, config):
    """One client's training: (user side, [m, d] items, Info)."""
    items = client.items
    samples = draw_round(key, data, len(items), config.negatives)

    def train(rows, samples):
        return train_locally(
            key,
            MF(data.num_users, config.init_std),
            client.user,
            rows,
            data,
            config,
            user_first=False,
            samples=samples,
            num_items=len(items),
        )

    if config.weight_decay:  # changes all rows
        return train(items, samples)
    touched = touched_rows(samples, len(items))
    user, rows, info = train(touched.rows(items), touched.samples)
    return user, items.at[touched.items].set(rows, mode="drop"), info
