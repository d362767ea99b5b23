"""A server's state in a run: whole on every device, but for what it has of every client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_rec.methods import Broadcast, ByClient
from fedjax_rec.simulation import clients, distribution
from fedjax_rec.simulation.layout import Layout
from fedjax_rec.simulation.rows import Rows

__all__ = ["Servers", "own_shapes", "server_shardings"]

PyTree = Any


class Servers:
    """Places server states, brings them to the host, and lets the host work on them.

    ``ByClient`` parts lie as the clients do: [R, …] in layout order, sharded. People and
    checkpoints have them as [num_clients, …] by client id.

    Args:
      mesh: the devices.
      layout: where every client lives.
      rows: brings rows to the host.
    """

    def __init__(self, mesh: Mesh, layout: Layout, rows: Rows) -> None:
        self._layout = layout
        self._rows = rows
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._batched = NamedSharding(mesh, PartitionSpec(clients.AXIS))

    def place(self, server: PyTree) -> PyTree:
        """A state by client id, on the devices."""
        of_row = np.maximum(self._layout.client_of_row, 0)

        def rows(x: Any) -> jax.Array:
            return distribution.shard(np.asarray(x)[of_row], self._batched)

        return _map(server, self._replicate, rows)

    def fetch(self, server: PyTree) -> PyTree:
        """NumPy arrays, by client id; with several processes, process 0 alone has ``ByClient``'s.

        All processes must call it.
        """
        return _map(server, np.asarray, self._rows.gather)

    def shapes(self, server: PyTree) -> PyTree:
        """Shapes of what ``fetch`` gives."""
        count = len(self._layout.row_of_client)

        def plain(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype)

        def rows(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)

        return _map(server, plain, rows)

    def broadcast(self, download: Broadcast) -> Broadcast:
        """A broadcast of a placed server, placed as well."""
        shared = jax.tree.map(self._replicate, download.shared)
        return Broadcast(shared, download.per_client)

    def host_work(self, work: Callable[[PyTree], PyTree], server: PyTree) -> PyTree:
        """``work(server)`` on the host; what is sharded stays where it is, and is not seen."""
        leaves, structure = jax.tree.flatten(server, is_leaf=_by_client)
        seen = [ByClient(()) if _by_client(x) else x for x in leaves]
        done = distribution.host_work(work, jax.tree.unflatten(structure, seen))
        made = jax.tree.leaves(done, is_leaf=_by_client)
        out = [
            old if _by_client(old) else self._replicate(new)
            for old, new in zip(leaves, made, strict=True)
        ]
        return jax.tree.unflatten(structure, out)

    def _replicate(self, x):
        return distribution.replicate(x, self._everywhere)


def server_shardings(server: PyTree, mesh: Mesh) -> PyTree:
    """Where the leaves of a server's state lie."""
    return _map(
        server,
        lambda _: NamedSharding(mesh, PartitionSpec()),
        lambda _: NamedSharding(mesh, PartitionSpec(clients.AXIS)),
    )


def own_shapes(download: Broadcast) -> Broadcast:
    """A broadcast as one client sees it, its own part only as shapes."""
    if download.per_client is None:
        return download
    rows = download.per_client.rows
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
    return download._replace(per_client=one)


def _map(tree, plain, rows):
    """``plain`` of the leaves that every device has whole, ``rows`` of those of ``ByClient``."""

    def leaf(x):
        return jax.tree.map(rows, x) if _by_client(x) else plain(x)

    return jax.tree.map(leaf, tree, is_leaf=_by_client)


def _by_client(x):
    return isinstance(x, ByClient)
