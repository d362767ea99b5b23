"""PFedRec: a private linear head for every user, item embeddings averaged every round."""

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
    identity_receive,
)
from fedjax_rec.methods.fusion import Backbone, fuse
from fedjax_rec.methods.fusion_options import Fusion
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.local_training import LocalTraining, initial_head, train_locally
from fedjax_rec.methods.shared_items import ItemUpload, own_scores, shared_items
from fedjax_rec.models import LinearHead, head_rows, score, score_by_row

__all__ = ["PFedRecConfig", "pfedrec"]


@dataclass(frozen=True)
class PFedRecConfig(LocalTraining, ItemUpload, Fusion):
    """Options of PFedRec, with the defaults of its release: SGD 0.1, one local epoch."""

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        ItemUpload.__post_init__(self)
        Fusion.__post_init__(self)


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, mean of the clients' tables
    head: Any  # LinearHead parameters that every client starts from


class Client(NamedTuple):
    head: Any  # LinearHead parameters, one head a user
    items: Any  # Held within a round; () between rounds: all items are those of the download


def pfedrec(config: PFedRecConfig) -> Method:
    """Dual personalization: heads stay on the clients, everyone's items become their mean.

    Per batch the head is stepped first, then the items on a fresh forward pass. Clients upload
    their item tables; the server takes the plain mean, and clients overwrite their own with it.

    Args:
      config: options.

    Reference:
      Zhang et al., "Dual Personalization on Federated Recommendation", IJCAI 2023, Algorithm 1.
      Rates as in its release: head η, items η·m·80.
    """
    table = shared_items(config, whole=config.fuses)

    def init(key: jax.Array, problem: Problem) -> Server:
        items_key, head_key = jax.random.split(key)
        return Server(
            config.initial_items(items_key, problem.num_items),
            initial_head(head_key, problem, config.dim),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(server.head, items=())

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
        held, samples = table.begin(key, items, data)
        head, rows, info = train_locally(
            key,
            LinearHead(data.num_users),
            client.head,
            held.rows,
            data,
            config,
            user_first=True,
            samples=samples,
            num_items=len(items),
            teacher=teacher,
        )
        held = held._replace(rows=rows)
        return Client(head, held), table.upload(items, held), info

    def retain(client: Client) -> Client:
        return client._replace(items=())

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return server._replace(items=table.mean(server.items, reduced))

    def scores(client: Client, shared: jax.Array, user: jax.Array) -> jax.Array:
        model = LinearHead(client.head["bias"].shape[0])

        def own(rows: jax.Array) -> jax.Array:
            return score(model, client.head, user, rows)

        return own_scores(own, shared, client.items)

    def traffic(download: Broadcast, upload: Any, sent: Any) -> Traffic:
        items = download.shared
        return Traffic(down=uplink.dense(items), up=table.wire(items, sent))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.items)}

    method = Method(
        name="pfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        accumulator=lambda server: table.accumulator(server.items),
        reduce=table.reduce,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        published_evaluation="trained",
    )
    backbone = Backbone(
        table=lambda upload: upload,
        width=config.dim,
        head_size=config.dim + 1,
        user_side=lambda client: head_rows(client.head),
        head=lambda upload, user: user,
        score_items=lambda server, row, items: score_by_row(row, items),
    )
    return fuse(method, config, backbone)
