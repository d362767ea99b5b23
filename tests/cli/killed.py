"""``python -m tests.cli.killed MOMENT ARGUMENTS``: the command, killed (SIGKILL) at that moment.

Polling from outside hits a moment only roughly; here the process kills itself when it is there.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fedjax_rec.cli import main
from fedjax_rec.simulation import checkpoint_files
from fedjax_rec.simulation.folder import RunFolder

__all__ = ["MOMENTS"]


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after_metrics_of(round_: int) -> None:
    append = RunFolder.append_metrics

    def wrapped(self: RunFolder, rows: list[dict[str, Any]]) -> None:
        append(self, rows)
        if rows[0]["round"] == round_:
            _die()

    RunFolder.append_metrics = wrapped  # type: ignore[method-assign]


def _within_checkpoint(number: int) -> None:
    """After the arrays of the ``number``-th checkpoint, before its record."""
    settle, calls = checkpoint_files._settle, 0

    def wrapped(file: Any) -> None:
        nonlocal calls
        settle(file)
        calls += 1
        if calls == 2 * number - 1:
            _die()

    checkpoint_files._settle = wrapped


# With a checkpoint every 3 rounds.
MOMENTS: dict[str, Callable[[], None]] = {
    "before the first checkpoint": lambda: _after_metrics_of(2),
    "between checkpoints": lambda: _after_metrics_of(5),
    "during the first checkpoint": lambda: _within_checkpoint(1),
    "during a later checkpoint": lambda: _within_checkpoint(2),
}

if __name__ == "__main__":
    MOMENTS[sys.argv[1]]()
    main(sys.argv[2:])
