"""Checkpoints: the one commit point of a run. Everything that a resumed run needs, atomically.

A checkpoint holds the server's and all clients' states, the round, the history of metrics, the
byte totals and the configuration. Random numbers need no state: they derive from (seed, round).
Orbax writes each into a temporary folder and renames it, so a run killed at any moment finds its
last complete checkpoint.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from fedjax_rec.errors import InputError

__all__ = ["Checkpoint", "Checkpoints", "differences"]


class Checkpoint(NamedTuple):
    """What is saved.

    Attributes:
      round: the last finished round.
      server: the server's state, NumPy arrays.
      clients: all clients' states by client id, NumPy arrays [num_clients, …].
      record: JSON-able: {"config", "history", "timings", "uplink", "downlink", …}.
    """

    round: int
    server: Any
    clients: Any
    record: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: ``OUT/checkpoints``; created on the first save.
      keep: how many of the latest to keep.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder = folder.absolute()
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint, then drops the oldest beyond ``keep``.

        Raises:
          InputError: the disk is full or the folder cannot be written. The previous checkpoints
            stay.
        """
        leaves = _leaves(checkpoint.server, checkpoint.clients)
        try:
            with self._manager() as manager:
                manager.save(
                    checkpoint.round,
                    args=ocp.args.Composite(
                        arrays=ocp.args.StandardSave(leaves),
                        record=ocp.args.JsonSave(checkpoint.record),
                    ),
                    force=True,
                )
                manager.wait_until_finished()
        except Exception as error:
            raise InputError(_cannot_write(self._folder, error)) from error

    def latest_round(self) -> int | None:
        """The round of the latest complete checkpoint, or None."""
        if not self._folder.is_dir():
            return None
        with self._manager() as manager:
            return manager.latest_step()

    def record(self, round_: int) -> dict[str, Any]:
        """The record of a checkpoint, without its arrays."""
        return self._restore(round_, record=ocp.args.JsonRestore())["record"]

    def load(self, round_: int, server: Any, clients: Any) -> Checkpoint:
        """Loads a checkpoint.

        Args:
          round_: which.
          server, clients: pytrees of the expected structure; their leaves' shapes and dtypes are
            what the checkpoint must have.

        Raises:
          InputError: it is damaged, or another method's or dataset's.
        """
        expected = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in _leaves(server, clients).items()
        }
        found = self._restore(
            round_,
            arrays=ocp.args.StandardRestore(expected),
            record=ocp.args.JsonRestore(),
        )
        arrays = found["arrays"]
        for name, want in expected.items():
            if arrays[name].shape != want.shape or arrays[name].dtype != want.dtype:
                raise InputError(
                    f"{self._folder / str(round_)}: {name} is {arrays[name].shape}, this run needs "
                    f"{want.shape}: it is the checkpoint of another run; use another --out"
                )

        def fill(prefix, tree):
            leaves, structure = jax.tree.flatten(tree)
            return jax.tree.unflatten(
                structure, [np.asarray(arrays[f"{prefix}{i}"]) for i in range(len(leaves))]
            )

        return Checkpoint(round_, fill("server", server), fill("clients", clients), found["record"])

    def _restore(self, round_, **args):
        try:
            with self._manager() as manager:
                return manager.restore(round_, args=ocp.args.Composite(**args))
        except Exception as error:
            raise InputError(
                f"checkpoint {self._folder / str(round_)} cannot be read "
                f"({_first_line(error)}): delete that folder to resume from the one before"
            ) from error

    def _manager(self):
        return ocp.CheckpointManager(self._folder, options=self._options)


def differences(saved: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Where two JSON-able configurations differ: ``["seed: 0 in the checkpoint, 1 asked for"]``."""
    found = []
    for key in sorted(set(saved) | set(wanted)):
        a, b = saved.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} in the checkpoint, {b!r} asked for")
    return found


def _leaves(server, clients):
    """A flat dict of arrays: method states are tuples of every kind, which need no file format."""
    named = {}
    for prefix, tree in (("server", server), ("clients", clients)):
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            named[f"{prefix}{i}"] = np.asarray(leaf)
    return named


def _cannot_write(folder, error):
    full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    why = "the disk is full" if full else _first_line(error)
    return f"cannot write a checkpoint to {folder}: {why}; the checkpoints before it are kept"


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
