"""Where all clients' states are between rounds: on the devices, in host memory, or in files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.layout import Layout
from fedjax_rec.simulation.rows import Rows
from fedjax_rec.units import human_bytes

__all__ = ["DeviceStates", "HostStates", "StatePlace", "choose_place", "rows_at_once"]

StatePlace = Literal["device", "host", "disk"]
PyTree = Any
Shard = Callable[[np.ndarray], jax.Array]

# Parts of a memory that `state="auto"` lets the clients' states fill.
_DEVICE_SHARE = 0.5
_HOST_SHARE = 0.25
# Streamed at once: a part of a device's memory, or so many bytes where that is not known.
_STREAM_SHARE = 1 / 16
_STREAM_BYTES = 256 << 20


class DeviceStates:
    """States on the devices, [devices · rows, …] in layout order, updated in place.

    Args:
      layout: where every client lives.
      rows: brings them to the host.
      shard: places an array whose leading axis is that of clients.
    """

    def __init__(self, layout: Layout, rows: Rows, shard: Shard) -> None:
        self._layout = layout
        self._rows = rows
        self._shard = shard

    def first(self, make: Callable[[np.ndarray], PyTree]) -> PyTree:
        """All states, from ``make``: [n] client ids -> their states on the devices."""
        # Rows that no client uses get a client's state like all others, and are never trained.
        return make(np.maximum(self._layout.client_of_row, 0))

    def take(self, everyone: PyTree, index: int) -> tuple[PyTree, np.int32]:
        """States on the devices that hold bucket ``index``, and the row at which it begins."""
        return everyone, np.int32(self._layout.buckets[index].start)

    def give(self, everyone: PyTree, index: int, trained: PyTree) -> PyTree:
        """All states, after ``take``'s were trained."""
        return trained

    def settle(self, everyone: PyTree) -> None:
        """After the round's last ``give``: nothing is left to do here."""

    def gather(self, everyone: PyTree) -> PyTree:
        """NumPy arrays [num_clients, …] by client id."""
        return jax.tree.map(self._rows.gather, everyone)

    def drop(self) -> None:
        """There are no files here."""

    def restore(self, states: PyTree) -> PyTree:
        """All states, from arrays by client id."""
        of_row = np.maximum(self._layout.client_of_row, 0)
        return jax.tree.map(lambda x: self._shard(np.asarray(x)[of_row]), states)


class HostStates:
    """States by client id in NumPy arrays, which stream through the devices bucket by bucket.

    While a bucket trains, the one before comes back and the next one goes up: what the devices
    hold at any time is three buckets, however many clients there are.

    Args:
      layout: where every client lives on the devices.
      shard: as for ``DeviceStates``.
      one: shapes of one client's state.
      folder: where the arrays are files mapped into memory; None: in memory. The files are a
        working copy: after a crash, only the last checkpoint counts.
    """

    def __init__(self, layout: Layout, shard: Shard, one: PyTree, folder: Path | None) -> None:
        self._layout = layout
        self._shard = shard
        self._one = one
        self._folder = folder
        self._coming: tuple[np.ndarray, PyTree] | None = None  # on its way from the devices

    def first(self, make: Callable[[np.ndarray], PyTree]) -> PyTree:
        """As ``DeviceStates.first``.

        Raises:
          InputError: the folder cannot be written, or the disk is too small.
        """
        everyone = self._create()
        for index, bucket in enumerate(self._layout.buckets):
            self.give(everyone, index, make(np.maximum(bucket.clients.reshape(-1), 0)))
        self.settle(everyone)
        return everyone

    def take(self, everyone: PyTree, index: int) -> tuple[PyTree, np.int32]:
        """As ``DeviceStates.take``: this bucket's states alone, so it begins at row 0."""
        ids = np.maximum(self._layout.buckets[index].clients.reshape(-1), 0)
        return jax.tree.map(lambda x: self._shard(x[ids]), everyone), np.int32(0)

    def give(self, everyone: PyTree, index: int, trained: PyTree) -> PyTree:
        """Takes a bucket's new states back: the transfer begins now, ``settle`` writes them."""
        for x in jax.tree.leaves(trained):
            x.copy_to_host_async()
        self.settle(everyone)
        self._coming = self._layout.buckets[index].clients.reshape(-1), trained
        return everyone

    def settle(self, everyone: PyTree) -> None:
        """Writes what is on its way. After it, all states are complete."""
        if self._coming is None:
            return
        ids, trained = self._coming
        self._coming = None

        def write(x: np.ndarray, new: jax.Array) -> None:
            for part in new.addressable_shards:
                mine = ids[part.index[0]]
                x[mine[mine >= 0]] = np.asarray(part.data)[mine >= 0]

        jax.tree.map(write, everyone, trained)

    def gather(self, everyone: PyTree) -> PyTree:
        """The arrays themselves, which must not be changed.

        With several processes each has only its own clients' states; process 0 takes in the rest.
        """
        if distribution.processes() > 1:
            for index, bucket in enumerate(self._layout.buckets):
                self._collect(everyone, self.take(everyone, index)[0], bucket.clients)
        return everyone

    def restore(self, states: PyTree) -> PyTree:
        """All states, from arrays by client id. Raises as ``first``."""
        everyone = self._create()
        jax.tree.map(np.copyto, everyone, states)
        return everyone

    def drop(self) -> None:
        """Removes the files; arrays in use stay readable."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _collect(self, everyone, states, ids):
        """Writes the states of one bucket, [devices, rows] ids, of all processes' clients."""
        for x, placed in zip(jax.tree.leaves(everyone), jax.tree.leaves(states), strict=True):
            for first, block in distribution.fetch_rows(placed, len(ids)):
                if distribution.leads():
                    these = ids[:, first : first + block.shape[1]]
                    x[these[these >= 0]] = block[these >= 0]

    def _create(self):
        """Arrays for all clients, of unspecified content."""
        count = len(self._layout.row_of_client)
        leaves, structure = jax.tree.flatten(self._one)
        if self._folder is None:
            arrays = [np.empty((count, *x.shape), x.dtype) for x in leaves]
        else:
            arrays = _files(self._folder, leaves, count)
        return jax.tree.unflatten(structure, arrays)


def _files(folder: Path, leaves: Sequence[Any], clients: int) -> list[np.ndarray]:
    """Arrays [clients, …] in files of a folder, in the place of those that lie there."""
    needed = _bytes(leaves) * clients
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"the clients' states take {human_bytes(needed)}, {folder} has "
                f"{human_bytes(free)} free: free some space, or use another --out"
            )
        arrays: list[np.ndarray] = []
        for index, x in enumerate(leaves):
            # Plain bytes: .npy headers know no bfloat16.
            shape = (clients, *x.shape)
            arrays.append(np.memmap(folder / f"{index}.bin", mode="w+", dtype=x.dtype, shape=shape))
        return arrays
    except OSError as error:
        raise InputError(
            f"cannot keep the clients' states in {folder}: {error.strerror}; "
            "use another --out, or --state host"
        ) from error


def choose_place(one: PyTree, clients: int, mesh: jax.sharding.Mesh) -> StatePlace:
    """The nearest place with room: devices, then host memory, then the disk.

    On a CPU the devices' memory is the host's, and states are either there or on the disk.

    Args:
      one: shapes of one client's state.
      clients: how many there are.
      mesh: the devices.
    """
    needed = _bytes(one) * clients
    fits_host = needed <= _HOST_SHARE * _host_memory()
    if mesh.devices.flat[0].platform == "cpu":
        return "device" if fits_host else "disk"
    limit = _device_memory(mesh)
    if limit is None or needed <= _DEVICE_SHARE * limit * mesh.size:
        return "device"
    return "host" if fits_host else "disk"


def rows_at_once(one: PyTree, mesh: jax.sharding.Mesh, chunk: int) -> int:
    """Clients of one device that stream together: at least a chunk of them.

    Args:
      one: shapes of one client's state.
      mesh: the devices.
      chunk: clients trained side by side.
    """
    limit = _device_memory(mesh)
    room = _STREAM_BYTES if limit is None else int(_STREAM_SHARE * limit)
    return max(chunk, room // max(1, _bytes(one)))


def _bytes(one):
    return sum(
        int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(one)
    )


def _device_memory(mesh):
    return (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")


def _host_memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
