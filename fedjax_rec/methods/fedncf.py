"""FedNCF: neural collaborative filtering, users private, items and network averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    WeightedSum,
    identity_between_rounds,
    identity_receive,
    weighted_mean,
    weighted_sum,
)
from fedjax_rec.methods.fusion import Backbone, fuse
from fedjax_rec.methods.fusion_options import Fusion
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.local_training import train_locally
from fedjax_rec.methods.ncf_training import NCFTraining
from fedjax_rec.methods.shared_items import ItemUpload, own_scores, shared_items
from fedjax_rec.models import USER_SIDE, score, user_side_and_network

__all__ = ["FedNCFConfig", "fedncf"]


@dataclass(frozen=True)
class FedNCFConfig(NCFTraining, ItemUpload, Fusion):
    """Options of FedNCF.

    Attributes:
      upload: "table": all m item rows, as in the paper. "rows": the changes of the rows that the
        client trained, and these items' ids (as for FedMF). The network travels whole.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    item_lr: float | None = 1e-3
    batch_size: int = 64
    local_epochs: int = 2
    init_std: float = 0.01

    def __post_init__(self) -> None:
        NCFTraining.__post_init__(self)
        ItemUpload.__post_init__(self)
        Fusion.__post_init__(self)


class Shared(NamedTuple):
    """What all clients have in common: the server's state, the download, and one's upload.

    Attributes:
      items: [m, 2d] float32, for GMF and for MLP; in an upload, as ``shared_items`` sends it.
      network: parameters of ``NCF`` that are no user's.
    """

    items: Any
    network: dict[str, jax.Array]


class Sums(NamedTuple):
    items: WeightedSum
    network: WeightedSum


class Client(NamedTuple):
    user: dict[str, jax.Array]  # embeddings [U, d] of its users, for GMF and for MLP
    # Within a round, Shared of Held and the network as trained; () between rounds.
    trained: Any


def fedncf(config: FedNCFConfig) -> Method:
    """Federated neural collaborative filtering: GMF and MLP under one output layer.

    User embeddings stay on the clients; item embeddings and the network become the clients' means,
    weighted by their number of training interactions |D_k|. All take one joint step a batch.

    Args:
      config: options.

    Differs from the paper: no secure aggregation, as the simulator sees no secrets, and items are
    averaged over all clients (FedAvg). The paper's MF-FedAvg takes each item's mean over those who
    trained it. Optimizer, rate, batch, epochs and negatives are those that the public
    reimplementation federeco states as the paper's.

    Reference:
      Perifanis and Efraimidis, "Federated Neural Collaborative Filtering", Knowledge-Based Systems
      242, 2022.
    """
    table = shared_items(config, whole=config.fuses)

    def init(key: jax.Array, problem: Problem) -> Shared:
        items_key, network_key = jax.random.split(key)
        items = config.initial_items(items_key, problem.num_items)
        parameters = config.model(1).init(network_key, jnp.int32(0), items[:1])["params"]
        return Shared(items, user_side_and_network(parameters)[1])

    def init_client(key: jax.Array, server: Shared, num_users: int) -> Client:
        model = config.model(num_users)
        parameters = model.init(key, jnp.int32(0), server.items[:1])["params"]
        return Client(user_side_and_network(parameters)[0], trained=())

    def local_update(
        key: jax.Array,
        client: Client,
        download: Broadcast,
        data: ClientData,
        teacher: Teacher | None = None,
    ) -> tuple[Client, Shared, Info]:
        items, network = download.shared
        held, samples = table.begin(key, items, data)
        parameters, rows, info = train_locally(
            key,
            config.model(data.num_users),
            {**client.user, **network},
            held.rows,
            data,
            config,
            user_first=False,
            samples=samples,
            num_items=len(items),
            teacher=teacher,
        )
        user, network = user_side_and_network(parameters)
        held = held._replace(rows=rows)
        upload = Shared(table.upload(items, held), network)
        return Client(user, Shared(held, network)), upload, info

    def retain(client: Client) -> Client:
        return client._replace(trained=())

    def accumulator(server: Shared) -> Sums:
        nothing = jax.tree.map(jnp.zeros_like, server.network)
        return Sums(table.accumulator(server.items), WeightedSum(nothing, jnp.float32(0)))

    def reduce(acc: Sums, uploads: Shared, weights: jax.Array) -> tuple[Sums, Any]:
        items, sent = table.reduce(acc.items, uploads.items, weights)
        return Sums(items, weighted_sum(acc.network, uploads.network, weights)[0]), sent

    def server_step(key: jax.Array, server: Shared, reduced: Sums) -> Shared:
        return Shared(table.mean(server.items, reduced.items), weighted_mean(reduced.network))

    def scores(client: Client, shared: Shared, user: jax.Array) -> jax.Array:
        model = config.model(len(client.user["user_gmf"]))
        network, held = shared.network, ()
        if client.trained:
            held, network = client.trained

        def own(rows: jax.Array) -> jax.Array:
            return score(model, {**client.user, **network}, user, rows)

        return own_scores(own, shared.items, held)

    def traffic(download: Broadcast, upload: Shared, sent: Any) -> Traffic:
        items, network = download.shared
        dense = uplink.dense(network)
        return Traffic(down=(uplink.dense(items), dense), up=(table.wire(items, sent), dense))

    def epsilon(upload: Shared, rounds: int) -> float | None:
        parts = [config.epsilon(x, rounds) for x in (upload.items, *upload.network.values())]
        total = 0.0
        for part in parts:
            if part is None:
                return None
            total += part
        return total

    def item_view(server: Shared) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.items)}

    method = Method(
        name="fedncf",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=lambda server: Broadcast(shared=server),
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: data.positives.astype(jnp.float32),
        accumulator=accumulator,
        reduce=reduce,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=epsilon,
        published_evaluation="download",
    )

    def score_items(server: Shared, user: jax.Array, items: jax.Array) -> jax.Array:
        """By the network that all clients share: only users differ between groups."""
        parts = dict(zip(USER_SIDE, jnp.split(user[None], 2, axis=1), strict=True))
        return score(config.model(1), {**parts, **server.network}, jnp.int32(0), items)

    backbone = Backbone(
        table=lambda upload: upload.items,
        width=2 * config.dim,
        head_size=2 * config.dim,
        user_side=lambda client: jnp.concatenate([client.user[x] for x in USER_SIDE], axis=1),
        head=lambda upload, user: user,
        score_items=score_items,
    )
    return fuse(method, config, backbone)
