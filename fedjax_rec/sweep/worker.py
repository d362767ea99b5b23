"""``python -m fedjax_rec.sweep.worker FOLDER ARGUMENTS``: ``fedjax-rec ARGUMENTS`` as a trial.

It ends when its standard input does, since that is when its sweep has died: a trial that lived on
would write into a folder that the next sweep takes up. And it waits for a predecessor in that
folder which has not noticed yet.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from fedjax_rec.cli import main
from fedjax_rec.errors import InputError
from fedjax_rec.simulation.lock import hold

__all__ = ["wait_for"]

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_ORPHANED = 129  # as a shell counts SIGHUP: the one who started it is gone


def wait_for(folder: Path) -> None:
    """Waits until nobody runs in a folder; after a minute the run itself says that somebody does.

    Args:
      folder: of a run; need not exist.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        try:
            with hold(folder):
                return
        except InputError:
            time.sleep(_POLL_SECONDS)


def _main() -> None:
    threading.Thread(target=_end_with_input, daemon=True).start()
    wait_for(Path(sys.argv[1]))
    main(sys.argv[2:])


def _end_with_input() -> None:
    """Ends this process with its standard input; as good as SIGKILL, which runs survive."""
    while os.read(0, 4096):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    _main()
