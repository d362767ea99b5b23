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
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_between_rounds,
    identity_receive,
)
from fedjax_rec.methods.fusion import Backbone, fuse
from fedjax_rec.methods.fusion_options import Fusion
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.memory import Memory, initial_memory, negatives_key
from fedjax_rec.methods.mf_training import MFTraining, train_mf
from fedjax_rec.methods.shared_items import ItemUpload, own_scores, shared_items
from fedjax_rec.models import MF, score

__all__ = ["FedMFConfig", "fedmf"]


@dataclass(frozen=True)
class FedMFConfig(MFTraining, ItemUpload, Fusion):
    """Options of FedMF.

    The papers that compare with FedMF name no rates for it in this setting; the defaults are the
    family's SGD, and an initialization small enough for the dot product to start near 0.
    """

    init_std: float = 0.1

    def __post_init__(self) -> None:
        MFTraining.__post_init__(self)
        ItemUpload.__post_init__(self)
        Fusion.__post_init__(self)
        if self.fuses and self.loss != "bce":
            raise InputError(
                f"fusion={self.fusion!r} needs predicted probabilities: use loss='bce' with it"
            )


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, weighted mean of the clients' tables


class Client(NamedTuple):
    user: Any  # MF parameters, one embedding a user
    items: Any  # Held within a round; () between rounds: all items are those of the download
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
    table = shared_items(config, keep_optimizer=config.keep_optimizer, whole=config.fuses)

    def init(key: jax.Array, problem: Problem) -> Server:
        return Server(config.initial_items(key, problem.num_items))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        model = MF(num_users, config.init_std)
        user = model.init(key, jnp.int32(0), server.items[:1])["params"]
        return Client(user, (), initial_memory(key, user, server.items, config))

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=server.items)

    def local_update(
        key: jax.Array,
        client: Client,
        download: Broadcast,
        data: ClientData,
        teacher: Teacher | None = None,
    ) -> tuple[Client, Any, Info]:
        items = download.shared
        held, samples = table.begin(key, items, data, negatives_key(client.memory))
        user, rows, memory, info = train_mf(
            key,
            client.user,
            held.rows,
            client.memory,
            data,
            config,
            samples=samples,
            num_items=len(items),
            teacher=teacher,
        )
        held = held._replace(rows=rows)
        return Client(user, held, memory), table.upload(items, held), info

    def retain(client: Client) -> Client:
        return client._replace(items=())

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return Server(table.mean(server.items, reduced))

    def scores(client: Client, shared: jax.Array, user: jax.Array) -> jax.Array:
        model = MF(client.user["embedding"].shape[0])

        def own(rows: jax.Array) -> jax.Array:
            return score(model, client.user, user, rows)

        return own_scores(own, shared, client.items)

    def traffic(download: Broadcast, upload: Any, sent: Any) -> Traffic:
        items = download.shared
        return Traffic(down=uplink.dense(items), up=table.wire(items, sent))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.items)}

    method = Method(
        name="fedmf",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: data.positives.astype(jnp.float32),
        accumulator=lambda server: table.accumulator(server.items),
        reduce=table.reduce,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        published_evaluation="download",
    )
    backbone = Backbone(
        table=lambda upload: upload,
        width=config.dim,
        head_size=config.dim,
        user_side=lambda client: client.user["embedding"],
        head=lambda upload, user: user,
        score_items=lambda server, user, items: items @ user,
    )
    return fuse(method, config, backbone)
