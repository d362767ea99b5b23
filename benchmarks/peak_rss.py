"""Peak resident memory of another program.

python benchmarks/peak_rss.py -- fedjax-rec run cgfedrec --data ml-100k --rounds 3
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Measured", "measure"]

MARK = "peak_rss: "


@dataclass(frozen=True)
class Measured:
    """What one program took.

    Attributes:
      peak_rss_bytes: largest resident set of the program itself (not of its children).
      seconds: wall time from start to end.
      status: exit status; minus the signal's number where one ended it.
    """

    peak_rss_bytes: int
    seconds: float
    status: int


def measure(command: Sequence[str], *, environment: dict[str, str] | None = None) -> Measured:
    """Runs a program to its end and measures it.

    The kernel counts the parent's memory at the fork into a child's peak, so the program is
    started by a small Python process of its own, not by the (large) one that calls this.

    Args:
      command: program and arguments; its output goes to stderr.
      environment: its environment; None means this process's.

    Raises:
      RuntimeError: if the program fails; a failed run's memory is no measurement.
    """
    launcher = [sys.executable, __file__, "--", *command]
    ended = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, env=environment)
    found = [line for line in ended.stdout.splitlines() if line.startswith(MARK)]
    if not found:
        raise RuntimeError(f"cannot start {command[0]}: the launcher ended {ended.returncode}")
    measured = Measured(**json.loads(found[-1].removeprefix(MARK)))
    if measured.status:
        raise RuntimeError(f"{' '.join(command)} ended with status {measured.status}")
    return measured


def _launch(command: Sequence[str]) -> Measured:
    start = time.perf_counter()
    # stdout is the channel of the measurement, so the program's own goes to stderr.
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return Measured(
        peak_rss_bytes=usage.ru_maxrss * unit,
        seconds=time.perf_counter() - start,
        status=os.waitstatus_to_exitcode(status),
    )


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        raise SystemExit("usage: python peak_rss.py -- PROGRAM [ARGUMENT ...]")
    print(MARK + json.dumps(asdict(_launch(sys.argv[2:]))), flush=True)
