"""Runs the notebooks from a clean start and writes them back with their outputs.

Usage: ``python notebooks/refresh.py [NAME ...]``, all of them without a name. Needs the ``test``
extra. Run it after a change that the outputs show, and on a quiet machine: `client_sweep_tpu` has
timings.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

__all__ = ["NOTEBOOKS", "execute"]

NOTEBOOKS = tuple(sorted(Path(__file__).parent.glob("*.ipynb")))

_CELL_SECONDS = 300


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells in a new kernel.

    Args:
      notebook: what to run; stays as it is.
      folder: the working directory, where the notebook's files end up.

    Returns:
      The notebook with its outputs, and nothing that tells when or with which Python it ran.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
      nbclient.exceptions.CellTimeoutError: a cell took more than five minutes.
    """
    executed = nbformat.from_dict(notebook)
    client = NotebookClient(
        executed,
        timeout=_CELL_SECONDS,
        record_timing=False,
        # What a kernel and its client say to each other goes over a port of this machine.
        config=Config(KernelManager={"transport_encryption": "auto"}),
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    executed.metadata["language_info"] = {"name": "python"}
    return executed


def main(names: list[str]) -> None:
    """Runs the named notebooks, in a folder that is thrown away, and rewrites their files."""
    known = {path.stem: path for path in NOTEBOOKS}
    if unknown := set(names) - set(known):
        sys.exit(f"no notebook is named {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    for name in names or known:
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(nbformat.read(known[name], as_version=4), Path(folder))
        nbformat.write(executed, known[name])
        print(f"{name}: {known[name].stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
