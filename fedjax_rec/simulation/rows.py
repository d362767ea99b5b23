"""Between client ids and rows: what the devices hold by row, people and files have by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedjax_rec.data import Problem
from fedjax_rec.evaluation.ranks import Ranks
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.layout import Layout

__all__ = ["Rows"]

_GATHER_ROWS = 64


class Rows:
    """Translates between the client axis of the devices and client or user ids.

    Args:
      problem: whose clients and users.
      layout: where every client lives.
      sharding: of the client axis.
    """

    def __init__(self, problem: Problem, layout: Layout, sharding: jax.sharding.Sharding) -> None:
        self._problem = problem
        self._layout = layout
        self._sharding = sharding
        self._ids = np.concatenate([b.clients.reshape(-1) for b in layout.buckets])
        self._everyone_orders: dict[tuple[int, int], Any] = {}

    def order(self, index: int, part: np.ndarray, width: int) -> tuple[jax.Array, jax.Array]:
        """The order in which the devices go through a bucket's rows.

        Args:
          index: the bucket.
          part: [participants] ascending client ids.
          width: clients that run side by side.

        Returns:
          [devices · n] int32 rows, participants first on every device, n padded to a multiple of
          ``width``; and [devices] int32, how many of them take part.
        """
        everyone = len(part) == self._problem.num_clients
        if everyone and (index, width) in self._everyone_orders:
            return self._everyone_orders[index, width]
        bucket = self._layout.buckets[index]
        takes_part = np.zeros(self._problem.num_clients + 1, bool)  # the last: id -1, nobody
        takes_part[part] = True
        chosen = takes_part[bucket.clients]
        order = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
        order = np.pad(order, ((0, 0), (0, -bucket.rows % width)), mode="edge")
        placed = (
            distribution.shard(order.reshape(-1), self._sharding),
            distribution.shard(chosen.sum(axis=1, dtype=np.int32), self._sharding),
        )
        if everyone:
            self._everyone_orders[index, width] = placed
        return placed

    def by_client(self, per_bucket: Sequence[Any]) -> np.ndarray:
        """[devices · rows, …] arrays of all buckets -> [num_clients, …], by client id."""
        values = np.concatenate(distribution.fetch(list(per_bucket)))
        out = np.zeros((self._problem.num_clients, *values.shape[1:]), values.dtype)
        used = self._ids >= 0
        out[self._ids[used]] = values[used]
        return out

    def by_user(self, per_bucket: Sequence[Ranks]) -> dict[str, np.ndarray]:
        """Ranks of all buckets -> by name, [num_users, entries], padded with -1."""
        starts = self._problem.client_starts[:-1]
        users = self._problem.users_per_client
        per_bucket = distribution.fetch(list(per_bucket))
        named = {}
        for name in Ranks._fields:
            parts = [getattr(ranks, name) for ranks in per_bucket]
            if parts[0] is None:
                continue
            width = max(p.shape[-1] for p in parts)
            parts = [
                np.pad(p, ((0, 0), (0, 0), (0, width - p.shape[-1])), constant_values=-1)
                for p in parts
            ]
            by_client = self.by_client(parts)  # [clients, slots, width]
            client = np.repeat(np.arange(len(users)), users)
            slot = np.arange(self._problem.num_users) - starts[client]
            named[name] = by_client[client, slot]
        return named

    def merge(
        self,
        bystanders: dict[str, np.ndarray],
        participants: dict[str, np.ndarray],
        part: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Ranks by user: those of the clients ``part`` from one, of all others from the other."""
        takes_part = np.zeros(self._problem.num_clients, bool)
        takes_part[part] = True
        mine = np.repeat(takes_part, self._problem.users_per_client)[:, None]
        return {name: np.where(mine, participants[name], bystanders[name]) for name in participants}

    def gather(self, x: jax.Array) -> np.ndarray | None:
        """[devices · rows, …] on the devices -> [num_clients, …] on the host.

        Shard by shard and block by block: the states are most of a run's memory, and the result
        is the only other copy of them that ever exists. With several processes, process 0 has it,
        and the others None.
        """
        if not x.is_fully_addressable:
            return self._collect(x)
        out = np.empty((self._problem.num_clients, *x.shape[1:]), x.dtype)
        for shard in x.addressable_shards:
            rows = np.asarray(shard.data)
            ids = self._layout.client_of_row[shard.index[0]]
            for start in range(0, len(rows), _GATHER_ROWS):
                block = slice(start, start + _GATHER_ROWS)
                used = ids[block] >= 0
                out[ids[block][used]] = rows[block][used]
        return out

    def _collect(self, x):
        devices = self._layout.devices
        ids = self._layout.client_of_row.reshape(devices, -1)
        out = None
        if distribution.leads():
            out = np.empty((self._problem.num_clients, *x.shape[1:]), x.dtype)
        for first, block in distribution.fetch_rows(x, devices):
            if out is not None:
                mine = ids[:, first : first + block.shape[1]]
                out[mine[mine >= 0]] = block[mine >= 0]
        return out
