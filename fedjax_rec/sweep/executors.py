"""Where trials run: the contract of an executor, and the one that starts them on this machine."""

from __future__ import annotations

from typing import Protocol

from fedjax_rec.sweep.process import Ending, Job, TrialProcess

__all__ = ["Executor", "LocalExecutor"]


class Executor(Protocol):
    """Runs jobs side by side.

    Attributes:
      slots: how many at a time; `start` is not called beyond that.
    """

    slots: int

    def start(self, job: Job) -> None:
        """Starts a job, and returns at once."""

    def ended(self) -> dict[str, Ending]:
        """The jobs that have ended since the last call, by name; does not wait."""

    def stop(self) -> None:
        """Asks all running jobs to end after their round, and returns at once."""

    def kill(self) -> None:
        """Ends all running jobs; returns when they have ended."""

    def close(self) -> None:
        """Gives back what it holds; no job is running."""


class LocalExecutor:
    """Processes of this machine.

    Args:
      slots: how many at a time.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._running: dict[str, TrialProcess] = {}

    def start(self, job: Job) -> None:
        self._running[job.name] = TrialProcess(job)

    def ended(self) -> dict[str, Ending]:
        found = {}
        for name, process in list(self._running.items()):
            ending = process.poll()
            if ending is not None:
                found[name] = ending
                del self._running[name]
        return found

    def stop(self) -> None:
        for process in self._running.values():
            process.stop()

    def kill(self) -> None:
        for process in self._running.values():
            process.kill()

    def close(self) -> None:
        self._running.clear()
