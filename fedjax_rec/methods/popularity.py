"""Popularity control: everyone is recommended what most users have interacted with."""

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
    weighted_sum,
)

__all__ = ["PopularityConfig", "popularity"]


@dataclass(frozen=True)
class PopularityConfig:
    """Popularity has no options."""


class Server(NamedTuple):
    counts: jax.Array  # [m] float32, clients' training interactions with each item


def popularity(config: PopularityConfig) -> Method:
    """Clients upload which items they hold, once; the server adds up and sends the counts down.

    A control, not a private method: the upload is the client's history. Equal counts tie, and ties
    count against the held-out item.

    Args:
      config: (no options.)
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        return Server(jnp.zeros(problem.num_items))

    def local_update(
        key: jax.Array, client: tuple[()], download: Broadcast, data: ClientData
    ) -> tuple[tuple[()], jax.Array, Info]:
        held = (jnp.arange(data.items.shape[0]) < data.positives).astype(jnp.float32)
        counts = jnp.zeros(download.shared.shape).at[data.items].add(held)
        return client, counts, Info(jnp.float32(0))

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return Server(reduced.total)

    def traffic(download: Broadcast, upload: jax.Array, sent: None) -> Traffic:
        return Traffic(down=uplink.dense(download.shared), up=uplink.dense(upload))

    return Method(
        name="popularity",
        config=config,
        init=init,
        init_client=lambda key, server, num_users: (),
        broadcast=lambda server: Broadcast(shared=server.counts),
        receive=identity_receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=uplink.identity(),
        weight=lambda data: jnp.float32(1),
        reduce=weighted_sum,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=lambda client, shared, user: shared,
        traffic=traffic,
        item_view=lambda server: {"popularity": np.asarray(server.counts)},
        default_rounds=1,
        published_evaluation="download",
    )
