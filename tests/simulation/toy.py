"""A method whose every number can be worked out by hand, to see what the engine does with it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.data import Problem
from fedjax_rec.methods import Broadcast, ByClient, Info, Method, Traffic
from fedjax_rec.methods.contract import (
    identity_between_rounds,
    identity_receive,
    weighted_mean,
    weighted_sum,
)

__all__ = ["Config", "Server", "toy"]


@dataclass(frozen=True)
class Config:
    """Where the toy's loss, or only its upload, is not a number: (round, client), or nowhere."""

    fails: tuple[int, int] = (0, -1)
    upload_fails: tuple[int, int] = (0, -1)


class Server(NamedTuple):
    round: jax.Array  # [] int32, rounds done
    table: ByClient  # [K, 2] float32: row k is client k's own download
    mean: jax.Array  # [2] float32, of the last round's uploads, weighted by training items


def toy(config: Config = Config()) -> Method:
    """Client k is sent row k, adds it to what it has, and uploads (k + 1) times it.

    The table starts as row k = (2k, 2k + 1) and grows by 1 a round. Scores are all alike.

    Args:
      config: where it fails.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        table = jnp.arange(2.0 * problem.num_clients).reshape(-1, 2)
        return Server(jnp.int32(0), ByClient(table), jnp.zeros(2))

    def local_update(key: Any, client: Any, download: Broadcast, data: Any):
        row, done = download.per_client, download.shared

        def broken(where, value):
            round_, who = where
            return jnp.where((done + 1 == round_) & (data.client == who), jnp.nan, value)

        upload = broken(config.upload_fails, row * (1.0 + data.client))
        return client + row, upload, Info(broken(config.fails, row[0]))

    def server_step(key: Any, server: Server, reduced: Any) -> Server:
        table = ByClient(server.table.rows + 1)
        return Server(server.round + 1, table, weighted_mean(reduced))

    return Method(
        name="toy",
        config=config,
        init=init,
        init_client=lambda key, server, num_users: jnp.zeros(2),
        broadcast=lambda server: Broadcast(shared=server.round, per_client=server.table),
        receive=identity_receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=uplink.identity(),
        weight=lambda data: data.positives.astype(jnp.float32),
        reduce=weighted_sum,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=lambda client, shared, user: jnp.full(40, client[0]),
        traffic=lambda download, upload, sent: Traffic(
            down=uplink.dense(download.per_client), up=uplink.dense(upload)
        ),
        item_view=lambda server: {"round": np.asarray(server.round)},
    )
