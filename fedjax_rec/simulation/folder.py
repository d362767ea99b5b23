"""The folder of a run: its files, written so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedjax_rec.data.arrays import write_arrays
from fedjax_rec.errors import InputError
from fedjax_rec.simulation.checkpoint import Checkpoints

__all__ = ["RunFolder", "write_whole"]


class RunFolder:
    """``OUT`` and what lies in it.

    Args:
      path: the folder; created when missing.
      resume: whether a run that lies there is to go on.
      writes: False: only to be read. What would write does nothing.

    Raises:
      InputError: it cannot be written, is a file, or holds a run that is not to be resumed.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, writes: bool = True) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self._writes = writes
        if not writes:
            return
        if (self.path / "config.json").exists() and not resume:
            raise InputError(
                f"{self.path} already holds a run: add --resume to go on with it, "
                "or name another --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"cannot write to {self.path}: {error.strerror}; name another --out"
            ) from error

    def config(self) -> dict[str, Any] | None:
        """The configuration of the run that lies here, or None."""
        target = self.path / "config.json"
        try:
            return json.loads(target.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{target} cannot be read ({error}): name another --out") from error

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        if not self._writes:
            return
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(_cannot_write(self.path / name, error)) from error

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes ``name`` as a whole."""
        self._write(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Writes ``metrics.jsonl`` as a whole: on resume, the checkpoint's history is the truth."""
        lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
        self._write("metrics.jsonl", "".join(lines))

    def append_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Adds an evaluated round's lines."""
        if not self._writes:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        target = self.path / "metrics.jsonl"
        size = target.stat().st_size if target.exists() else 0
        try:
            with open(target, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(target, size)  # a full disk may have taken half of a line
            raise InputError(_cannot_write(target, error)) from error

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Writes an ``.npz`` as a whole."""

        self._atomically(name, lambda file: write_arrays(file, arrays, compress=True), "wb")

    def _write(self, name, text):
        self._atomically(name, lambda file: file.write(text), "w")

    def _atomically(self, name, write, mode):
        if not self._writes:
            return
        target = self.path / name
        try:
            write_whole(target, write, mode=mode)
        except OSError as error:
            raise InputError(_cannot_write(target, error)) from error


def write_whole(target: Path, write: Callable[[IO[Any]], Any], *, mode: str = "w") -> None:
    """Writes a file so that a reader, or a crash, finds the old content or the new, never half.

    Args:
      target: the file.
      write: writes the content to an open file.
      mode: "w" (UTF-8) or "wb".

    Raises:
      OSError: it cannot be written; nothing is left of the attempt.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _cannot_write(path, error):
    if error.errno == errno.ENOSPC:
        remedy = "free some space, then go on with --resume"
    else:
        remedy = "make it writable, then go on with --resume"
    return f"cannot write {path}: {error.strerror}; {remedy}"
