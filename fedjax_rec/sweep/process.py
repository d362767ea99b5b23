"""One trial's process: started, watched, asked to stop, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fedjax_rec.errors import InputError

__all__ = ["Ending", "Job", "TrialProcess", "last_line", "run_to_end"]

_POLL_SECONDS = 0.1
_ENVIRONMENT = ("FEDJAX_REC_", "JAX_", "XLA_")


@dataclass(frozen=True)
class Job:
    """What an executor runs: plain values, so that it can travel to another machine.

    Attributes:
      name: the trial's.
      arguments: of ``fedjax-rec``, ``run`` included.
      folder: the run's, absolute.
      log: file that takes what the process says, absolute.
      directory: where it runs, absolute: relative paths of data mean the same everywhere.
    """

    name: str
    arguments: tuple[str, ...]
    folder: str
    log: str
    directory: str

    def environment(self) -> dict[str, str]:
        """This process's variables that a trial on another machine needs too."""
        return {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
      code: of its process: 0, an error's status, 128 + N or -N after signal N; None: the process
        was lost with the machine that it ran on.
      text: what is known beyond that; "" for nothing.
    """

    code: int | None
    text: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether it was ended from outside, rather than by an error of its own."""
        return self.code is None or self.code < 0 or self.code > 128


class TrialProcess:
    """A running trial.

    It holds the reading end of a pipe for its standard input, and ends itself when the writing
    end closes (`worker`): that is what the system does when this process dies, however it dies.

    Args:
      job: what to run.
      environment: variables to add to this process's.

    Raises:
      InputError: its log cannot be written, or no process started.
    """

    def __init__(self, job: Job, environment: dict[str, str] | None = None) -> None:
        worker = [sys.executable, "-m", "fedjax_rec.sweep.worker", job.folder, *job.arguments]
        try:
            with open(job.log, "ab") as log:  # the process keeps its own
                self._process = subprocess.Popen(
                    worker,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=job.directory,
                    env=os.environ | (environment or {}),
                    # A group of its own: Ctrl-C in the terminal is the sweep's to pass on.
                    start_new_session=True,
                )
        except OSError as error:
            raise InputError(
                f"{job.name} cannot be started, or its log {job.log} not be written: "
                f"{error.strerror}"
            ) from error

    def poll(self) -> Ending | None:
        """How it ended, or None while it runs."""
        code = self._process.poll()
        return None if code is None else Ending(code)

    def stop(self) -> None:
        """Asks it to end after its round, with a checkpoint."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once; its last checkpoint stays."""
        self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def run_to_end(job: Job, environment: dict[str, str]) -> Ending:
    """Runs a job in this thread; an interruption is passed on to it.

    Args:
      job: what to run.
      environment: variables to add to this process's.

    Raises:
      KeyboardInterrupt: this process was interrupted; the trial has ended, with a checkpoint.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):
        # As it is for what a shell starts in the background, a sweep's own Ray cluster too; and Ray
        # interrupts its tasks in no other way.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = TrialProcess(job, environment)
    try:
        # Waiting in the system would keep an interruption from being noticed.
        while (ending := process.poll()) is None:
            time.sleep(_POLL_SECONDS)
        return ending
    except BaseException:
        process.stop()
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
        raise


def last_line(log: Path, start: int) -> str:
    """The last line of a log that is not empty, from a position on; "" where there is none."""
    try:
        said = log.read_bytes()[start:].decode("utf-8", "replace")
    except OSError:
        return ""  # somebody took it away: the trial's ending is known without it
    return next((line.strip() for line in reversed(said.split("\n")) if line.strip()), "")
