"""What lies in one checkpoint: ``arrays.npz`` and ``record.json``, as an Orbax handler.

Orbax brings the commit (a temporary folder, renamed when complete) and the retention; this handler
brings the files. Orbax's own array format is made for sharded writes from many hosts; where the
disk is full or a file is damaged, its threads print tracebacks that nobody can catch. Here an
error is one exception, the archive's checksums notice damage, and NumPy alone can read it.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from fedjax_rec.data.arrays import write_arrays

__all__ = ["CheckpointFiles", "RestoreFiles", "SaveFiles"]

_ARRAYS = "arrays.npz"
_RECORD = "record.json"


class CheckpointFiles(ocp.CheckpointHandler):
    """Writes and reads the files of one checkpoint."""

    def save(self, directory: Path, args: SaveFiles) -> None:
        """Writes both files and waits until the disk has them."""
        with open(directory / _ARRAYS, "wb") as file:
            write_arrays(file, args.arrays)
            _settle(file)
        with open(directory / _RECORD, "w", encoding="utf-8") as file:
            json.dump(args.record, file, allow_nan=False)
            _settle(file)

    def restore(
        self, directory: Path, args: RestoreFiles
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays (empty unless asked for) and the record."""
        arrays: dict[str, np.ndarray] = {}
        if args.scratch is not None:
            with zipfile.ZipFile(directory / _ARRAYS) as archive:
                for member in archive.namelist():  # extracted a few bytes at a time, and checked
                    path = Path(archive.extract(member, args.scratch))
                    arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        elif args.arrays:
            with np.load(directory / _ARRAYS, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads((directory / _RECORD).read_text(encoding="utf-8"))


@ocp.args.register_with_handler(CheckpointFiles, for_save=True)
@dataclass
class SaveFiles(ocp.args.CheckpointArgs):
    """What to save.

    Attributes:
      arrays: by name.
      record: JSON-able.
    """

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


@ocp.args.register_with_handler(CheckpointFiles, for_restore=True)
@dataclass
class RestoreFiles(ocp.args.CheckpointArgs):
    """What to restore.

    Attributes:
      arrays: whether to read the arrays too, or only the record.
      scratch: folder to unpack them to, as files mapped into memory; None: into memory.
    """

    arrays: bool = True
    scratch: Path | None = None


def _settle(file):
    file.flush()
    os.fsync(file.fileno())
