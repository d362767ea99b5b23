"""Watches over one process of a run that has several: whatever ends it, people read one line.

XLA ends a process whose coordinator is gone from a thread of its own, with a page of stack and
without a hook: no exception, no exit handler. So each process of such a run is a pair: this one,
which people started and which needs nothing but Python's standard library (8 MB), and the worker
below it, which does the work.

* Signals that would stop the run are passed on, once.
* What the worker says on its standard error is passed on, short of XLA's last words about a lost
  process, which become one line and exit status 2.
* Each ends when the other does, be it by SIGKILL.

Run as a script by the command line: ``supervisor.py ARGUMENTS`` of ``fedjax-rec``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

__all__ = [
    "ERROR",
    "LOST",
    "NOT_JOINED",
    "WATCHED",
    "end_with_supervisor",
    "passed_on",
    "supervise",
]

ERROR = "fedjax-rec: error: "
LOST = (
    "a process of this run was lost, or ended with an error of its own: start all of them again "
    "with --resume (any number of processes)"
)
NOT_JOINED = (
    "not all processes of this run came in time: start all of them, with the same --coordinator "
    "and --processes, or give them longer with --join-seconds"
)
# The file descriptor at whose end the worker knows that its supervisor is gone.
WATCHED = "FEDJAX_REC_WATCHED_FD"

_WORKER = "from fedjax_rec.cli import worker; worker()"
_STATUS = 2
_LAST_WORDS = "JAX distributed service detected fatal errors"
_JOINING = "CoordinationService/RegisterTask"


def supervise(arguments: list[str]) -> int:
    """Runs the worker to its end.

    Returns:
      The exit status: the worker's; 2 where it was ended because another process was lost.
    """
    watched, held = os.pipe()
    environment = os.environ | {WATCHED: str(watched)}
    if environment.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # as JAX sets it
        # Errors in XLA's log precede its last words. Those that matter come as exceptions too.
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, *arguments],
        env=environment,
        pass_fds=[watched],
        stderr=subprocess.PIPE,
        # Ctrl-C reaches a terminal's whole foreground; it must come to the worker once, from here.
        start_new_session=True,
        text=True,
        errors="replace",
        bufsize=1,
    )
    os.close(watched)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: worker.send_signal(number))
    assert worker.stderr is not None
    lost = False
    for line, last_word in passed_on(worker.stderr):
        lost = last_word
        sys.stderr.write(line)
        sys.stderr.flush()
    status = worker.wait()
    os.close(held)
    if lost:
        return _STATUS
    if status < 0:
        print(f"{ERROR}the process was killed by signal {-status}", file=sys.stderr)
        return 128 - status
    return status


def passed_on(lines: Iterable[str]) -> Iterable[tuple[str, bool]]:
    """What to say of a worker's lines, and whether it was ended because of a lost process.

    From XLA's last words on, nothing of it; one line instead, unless the worker had told an error.

    >>> fatal = "F0101 client.h:80] Terminating process because the JAX distributed service "
    >>> fatal += "detected fatal errors."
    >>> said = list(passed_on(["round 1\\n", fatal, "*** Check failure stack trace: ***"]))
    >>> [line[:48] for line, lost in said]
    ['round 1\\n', 'fedjax-rec: error: a process of this run was los']
    """
    told = lost = False
    meaning = LOST
    for line in lines:
        lost |= _LAST_WORDS in line
        if not lost:
            told |= line.startswith(ERROR)
            yield line, False
        elif _JOINING in line:
            meaning = NOT_JOINED
    if lost:
        yield ("" if told else f"{ERROR}{meaning}\n"), True


def end_with_supervisor() -> None:
    """In the worker: ends this process as soon as its supervisor has ended."""
    watched = int(os.environ.pop(WATCHED))

    def wait() -> None:
        os.read(watched, 1)  # nothing is ever written: it returns at the end of the other side
        os._exit(_STATUS)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
