"""Several processes, on one host or many, as one run: the one place that knows about them.

Every process runs the same command and prepares the same data; its devices hold a share of the
clients. What is random derives from (seed, round, client) and what is summed is summed by
collectives, so all processes know the same numbers without asking. Three things would let them
drift apart, and are done by process 0 for all: the host's work between rounds, the decision to stop
early, and everything that is written. The run's folder must be on a file system that all share.

In an ordinary process (JAX not distributed) every function here does the plain thing: nothing
travels, nobody waits.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from fedjax_rec.errors import InputError, TrainingError

__all__ = [
    "any_process",
    "fetch",
    "fetch_rows",
    "host_work",
    "lead",
    "leads",
    "lost_process_told",
    "must_agree",
    "own",
    "processes",
    "replicate",
    "same_everywhere",
    "shard",
]

T = TypeVar("T")
PyTree = Any

_TEXT_BYTES = 4096
# Rows that travel at once, on the way to process 0.
_BLOCK_BYTES = 32 << 20
# What JAX's exceptions say when a peer is gone: Gloo's, NCCL's and the coordination service's.
_LOST = re.compile(
    r"gloo|nccl|coordination ?service|connection (closed|reset|refused)|socket closed|heartbeat",
    re.IGNORECASE,
)


def processes() -> int:
    """How many processes the run has; never starts JAX's backend where there is one."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def leads() -> bool:
    """Whether this process does what is done once: host work, artifacts, talking to people."""
    return processes() == 1 or jax.process_index() == 0


def own(name: str) -> str:
    """A name for files that each process has for itself: "state", "state-1", …"""
    return name if leads() else f"{name}-{jax.process_index()}"


# Arrays ---------------------------------------------------------------------------------------


def shard(x: np.ndarray, sharding: Sharding) -> jax.Array:
    """A host array that all processes have alike, placed: each uploads its devices' part only."""
    if processes() == 1:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def replicate(tree: PyTree, sharding: Sharding) -> PyTree:
    """A tree that all processes have alike, whole on every device of ``sharding``."""
    if processes() == 1:

        def place(x: Any) -> jax.Array:
            # Most are there since the last round, and asking device_put takes a while, too.
            there = isinstance(x, jax.Array) and x.sharding == sharding
            return x if there else jax.device_put(x, sharding)

        return jax.tree.map(place, tree)

    def leaf(x: Any) -> jax.Array:
        if _spans(x):
            return x  # already a copy on every device: no process could have made it otherwise
        copies = [jax.device_put(x, device) for device in sharding.addressable_devices]
        return jax.make_array_from_single_device_arrays(copies[0].shape, sharding, copies)

    return jax.tree.map(leaf, tree)


def fetch(tree: PyTree) -> PyTree:
    """NumPy arrays of the whole arrays, on every process. All processes must call it."""
    leaves, structure = jax.tree.flatten(tree)
    far = [x for x in leaves if _spans(x) and not x.is_fully_replicated]
    if far:
        # One program for all of them: each would compile on its own, and wait for all processes.
        everywhere = NamedSharding(far[0].sharding.mesh, PartitionSpec())
        near = iter(jax.jit(_identity, out_shardings=everywhere)(far))
        leaves = [next(near) if _spans(x) and not x.is_fully_replicated else x for x in leaves]
    return jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])


def fetch_rows(x: jax.Array, devices: int) -> Iterator[tuple[int, np.ndarray]]:
    """Brings an array that is too large to have twice to the host, block by block.

    All processes must take all blocks.

    Args:
      x: [devices · rows, …], sharded over its leading axis.
      devices: how many there are.

    Yields:
      first, [devices, n, …]: rows first … first + n of every device's part. Blocks may overlap.
    """
    rows = x.shape[0] // devices
    size = max(1, x.nbytes // max(1, x.shape[0]))
    block = max(1, min(rows, _BLOCK_BYTES // (size * devices)))
    assert isinstance(x.sharding, NamedSharding)
    everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())

    def cut(x: jax.Array, first: int) -> jax.Array:
        parts = x.reshape(devices, rows, *x.shape[1:])
        return jax.lax.dynamic_slice_in_dim(parts, first, block, axis=1)

    program = jax.jit(cut, out_shardings=everywhere)
    for first in range(0, rows, block):
        first = min(first, rows - block)
        yield first, np.asarray(program(x, np.int32(first)))


# Agreement ------------------------------------------------------------------------------------


def same_everywhere(tree: PyTree) -> PyTree:
    """Process 0's values of a tree that every process has in the same shapes and dtypes."""
    if processes() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(x) for x in leaves]
    # As bytes: a sum of floats with zeros would lose the sign of -0, and JAX has no int64.
    mine = np.concatenate([np.zeros(0, np.uint8), *map(_bytes, arrays)])
    theirs = multihost_utils.broadcast_one_to_all(mine) if len(mine) else mine
    out, start = [], 0
    for x in arrays:
        out.append(theirs[start : start + x.nbytes].view(x.dtype).reshape(x.shape))
        start += x.nbytes
    return jax.tree.unflatten(structure, out)


def host_work(work: Callable[[PyTree], PyTree], tree: PyTree) -> PyTree:
    """``work(tree)``, done by process 0 alone and known to all.

    Args:
      work: keeps structure, shapes and dtypes. Leaves that it hands on as they are do not travel.
      tree: alike on all processes.
    """
    if processes() == 1:
        return work(tree)
    # Work on one process must not touch arrays of all: their operations are for all to run.
    tree = jax.tree.map(lambda x: x.addressable_data(0) if _spans(x) else x, tree)
    old, structure = jax.tree.flatten(tree)
    new = old
    if leads():
        # Raises where the structures differ.
        made = jax.tree.map(lambda x, y: y if y is x else _alike(y, x), tree, work(tree))
        new = jax.tree.leaves(made)
    changed = same_everywhere([np.bool_(y is not x) for x, y in zip(old, new, strict=True)])
    moved = iter(same_everywhere([y for y, c in zip(new, changed, strict=True) if c]))
    leaves = [next(moved) if c else x for x, c in zip(old, changed, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def lead(work: Callable[[], T]) -> T | None:
    """What ``work`` returns on process 0, which alone runs it; None on the others.

    Raises:
      InputError: process 0's, on all of them.
    """
    if processes() == 1:
        return work()
    done, message = None, ""
    if leads():
        try:
            done = work()
        except InputError as error:
            message = str(error)
    text = np.zeros(_TEXT_BYTES, np.uint8)
    written = message.encode()[:_TEXT_BYTES]
    text[: len(written)] = np.frombuffer(written, np.uint8)
    message = same_everywhere(text).tobytes().rstrip(b"\0").decode(errors="replace")
    if message:
        raise InputError(message)
    return done


def any_process(flag: bool) -> bool:
    """Whether the flag is set on some process."""
    if processes() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array([flag]), tiled=True).any())


def must_agree(what: str, message: str) -> None:
    """Refuses to go on where processes differ in ``what``, any text.

    Raises:
      InputError: ``message``, on all processes.
    """
    if processes() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(what.encode()).digest(), np.uint8)
    with _quiet_stdout():
        agree = np.array_equal(same_everywhere(mine), mine)
    if any_process(not agree):
        raise InputError(message)


@contextmanager
def lost_process_told(when: str) -> Iterator[None]:
    """Tells in one line what JAX's exceptions mean where a process has died.

    Args:
      when: "round 7".

    Raises:
      TrainingError: a process was lost.
    """
    try:
        yield
    except (InputError, TrainingError):
        raise
    except (RuntimeError, ValueError) as error:
        if processes() == 1 or not _LOST.search(str(error)):
            raise
        raise TrainingError(
            f"{when}: a process of this run was lost, or ended with an error of its own: "
            "start all of them again with --resume (any number of processes)"
        ) from error


def _identity(x):
    return x


def _spans(x):
    """Whether an array is on the devices of several processes."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def _bytes(x):
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _alike(new, old):
    array = np.asarray(new)
    if array.shape != np.shape(old):
        raise ValueError(
            f"host work changed a shape from {list(np.shape(old))} to {list(array.shape)}"
        )
    return array.astype(np.asarray(old).dtype, copy=False)


@contextmanager
def _quiet_stdout():
    """For the first collective: Gloo tells of its connections on the standard output."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
