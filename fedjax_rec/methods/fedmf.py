"""FedMF: matrix factorization with private user embeddings and averaged item embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

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
    identity_between_rounds,
    weighted_mean,
    weighted_sum,
)
from fedjax_rec.methods.local_training import Uplink
from fedjax_rec.methods.mf_training import Memory, MFTraining, initial_memory, train_mf
from fedjax_rec.models import MF, score

__all__ = ["FedMFConfig", "fedmf"]


@dataclass(frozen=True)
class FedMFConfig(MFTraining, Uplink):
    """Options of FedMF.

    The papers that compare with FedMF name no rates for it in this setting; the defaults are the
    family's SGD, and an initialization small enough for the dot product to start near 0.
    """

    init_std: float = 0.1


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, weighted mean of the clients' tables


class Client(NamedTuple):
    user: Any  # MF parameters, one embedding a user
    items: Any  # [m, d] float32 within a round; () between rounds: the next download replaces it
    memory: Memory


def fedmf(config: FedMFConfig) -> Method:
    """Federated matrix factorization: score = σ(u·v_i), user side private, item side averaged.

    User and item embeddings take one joint step a batch. Clients are weighted by their number of
    training interactions |D_k|.

    Args:
      config: options.

    Differs from the paper: binary cross-entropy on implicit feedback with sampled negatives (as
    its use as a baseline in this literature), and no encryption: the simulator sees no secrets.

    Reference:
      Chai et al., "Secure Federated Matrix Factorization", IEEE Intelligent Systems 2021.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        return Server(config.initial_items(key, problem.num_items))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        model = MF(num_users, config.init_std)
        user = model.init(key, jnp.int32(0), server.items[:1])["params"]
        return Client(user, (), initial_memory(key, user, server.items, config))

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=server.items)

    def receive(key: jax.Array, client: Client, download: Broadcast, data: ClientData) -> Client:
        return client._replace(items=download.shared)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, jax.Array, Info]:
        user, items, memory, info = train_mf(
            key, client.user, client.items, client.memory, data, config
        )
        return Client(user, items, memory), items, info

    def retain(client: Client) -> Client:
        return client._replace(items=())

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return Server(weighted_mean(reduced))

    def scores(client: Client, shared: jax.Array, user: jax.Array) -> jax.Array:
        model = MF(client.user["embedding"].shape[0])
        return score(model, client.user, user, client.items)

    def traffic(download: Broadcast, upload: jax.Array, sent: None) -> Traffic:
        return Traffic(down=uplink.dense(download.shared), up=uplink.dense(upload))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.items)}

    return Method(
        name="fedmf",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: data.positives.astype(jnp.float32),
        reduce=weighted_sum,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        published_evaluation="download",
    )
