"""Checkpoints: the one commit point of a run. Everything that a resumed run needs, atomically.

A checkpoint holds the server's and all clients' states, the round, the history of metrics, the
ranks of the best round so far, the byte totals and the configuration. Random numbers need no
state: they derive from (seed, round). Orbax writes each into a temporary folder and renames it, so
a run killed at any moment finds its last complete checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from fedjax_rec.errors import InputError
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.checkpoint_files import RestoreFiles, SaveFiles

__all__ = ["Checkpoint", "Checkpoints", "differences"]

_RANKS = "ranks-"  # before the names of their arrays


class Checkpoint(NamedTuple):
    """What is saved.

    Attributes:
      round: the last finished round.
      server: the server's state, NumPy arrays.
      clients: all clients' states by client id, NumPy arrays [num_clients, …].
      record: JSON-able: {"config", "history", "timings", "uplink", "downlink", …}.
      ranks: by name, those of the best round so far, which may lie before ``round``; empty where
        nothing was evaluated yet.
    """

    round: int
    server: Any
    clients: Any
    record: dict[str, Any]
    ranks: Mapping[str, np.ndarray] = MappingProxyType({})


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: ``OUT/checkpoints``; created on the first save.
      keep: how many of the latest to keep.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder = folder.absolute()
        # Of one process alone: where a run has several, one writes, and each reads for itself.
        me = jax.process_index() if distribution.processes() > 1 else 0
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}
            ),
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Commits a checkpoint, then drops the oldest beyond ``keep``.

        Raises:
          InputError: the disk is full or the folder cannot be written. The previous checkpoints
            stay.
        """
        named = _named(checkpoint.server, checkpoint.clients)
        leaves = {name: np.asarray(leaf) for name, leaf in named.items()}
        leaves |= {f"{_RANKS}{name}": array for name, array in checkpoint.ranks.items()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()  # what a killed run left
            with self._manager() as manager:
                manager.save(
                    checkpoint.round, args=SaveFiles(leaves, checkpoint.record), force=True
                )
        except Exception as error:
            self._remove_unfinished()
            raise InputError(_cannot_write(self._folder, error)) from error

    def latest_round(self) -> int | None:
        """The round of the latest complete checkpoint, or None."""
        if not self._folder.is_dir():
            return None
        with self._manager() as manager:
            return manager.latest_step()

    def record(self, round_: int) -> dict[str, Any]:
        """The record of a checkpoint, without its arrays."""
        return self._restore(round_, RestoreFiles(arrays=False))[1]

    def load(
        self, round_: int, server: Any, clients: Any, *, scratch: Path | None = None
    ) -> Checkpoint:
        """Loads a checkpoint.

        Args:
          round_: which.
          server, clients: pytrees of the expected structure; their leaves' shapes and dtypes are
            what the checkpoint must have.
          scratch: folder for arrays that are too large for memory, mapped from files; None: they
            are read into memory.

        Raises:
          InputError: it is damaged, or another method's or dataset's.
        """
        expected = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in _named(server, clients).items()
        }
        arrays, record = self._restore(round_, RestoreFiles(scratch=scratch))
        for name, want in expected.items():
            found = arrays.get(name)
            if found is not None and found.dtype.kind == "V":  # bfloat16 and its kin
                found = arrays[name] = found.view(want.dtype)
            if found is None or found.shape != want.shape or found.dtype != want.dtype:
                what = "missing" if found is None else f"{found.dtype}{list(found.shape)}"
                raise InputError(
                    f"{self._folder / str(round_)}: {name} is {what}, this run needs "
                    f"{want.dtype}{list(want.shape)}: it is the checkpoint of another run; "
                    "use another --out"
                )

        def fill(prefix, tree):
            leaves, structure = jax.tree.flatten(tree)
            return jax.tree.unflatten(
                structure, [arrays[f"{prefix}{i}"] for i in range(len(leaves))]
            )

        # Copies: what lies in the scratch folder goes with it.
        ranks = {
            name.removeprefix(_RANKS): np.array(array)
            for name, array in arrays.items()
            if name.startswith(_RANKS)
        }
        return Checkpoint(round_, fill("server", server), fill("clients", clients), record, ranks)

    def _restore(self, round_, args):
        with self._manager() as manager:
            try:
                return manager.restore(round_, args=args)
            except Exception as error:
                before = [step for step in manager.all_steps() if step < round_]
                remedy = (
                    f"delete that folder to resume after round {max(before)}"
                    if before
                    else "there is none before it, so start anew with another --out"
                )
                raise InputError(
                    f"checkpoint {self._folder / str(round_)} cannot be read "
                    f"({_first_line(error)}): {remedy}"
                ) from error

    def _remove_unfinished(self):
        for leftover in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @contextlib.contextmanager
    def _manager(self):
        """A manager of the folder, which says nothing: all that it logs, it raises as well."""
        log = logging.getLogger("absl")
        log.addFilter(_nothing)
        try:
            with ocp.CheckpointManager(self._folder, options=self._options) as manager:
                yield manager
        finally:
            log.removeFilter(_nothing)


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


def _named(server, clients):
    """A flat dict of leaves: method states are tuples of every kind, which need no file format."""
    trees = {"server": server, "clients": clients}
    return {
        f"{prefix}{i}": leaf
        for prefix, tree in trees.items()
        for i, leaf in enumerate(jax.tree.leaves(tree))
    }


def _nothing(record):
    return False


def _cannot_write(folder, error):
    full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    why = "the disk is full" if full else _first_line(error)
    remedy = "free some space" if full else "make it writable"
    return (
        f"cannot write a checkpoint to {folder}: {why}; those before it are kept: "
        f"{remedy}, then go on with --resume"
    )


def _first_line(error):
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= 120 else f"{lines[0][:119]}…"
