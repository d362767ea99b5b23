"""A comparison in this process: the real command and runs, without a process for each of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from fedjax_rec import cli
from fedjax_rec.compare import page
from fedjax_rec.sweep import run as loop
from fedjax_rec.sweep.process import Ending, Job

__all__ = ["InProcess", "command", "in_process"]

TINY = ("--data-options", "users=24", "items=40", "interactions_per_user=8")


def command(out: Path, methods: str, *options: Any) -> list[str]:
    """The words of a comparison on tiny data."""
    words = ["compare", "--methods", methods, *TINY, "--out", out, *options]
    return [str(word) for word in words]


class InProcess:
    """An executor that runs each job here, to its end, when it is asked how it ended.

    Args:
      before: called with each job first; what it returns ends the job instead, and a
        KeyboardInterrupt ends the job and is the comparison's own.
    """

    slots = 1

    def __init__(self, before: Callable[[Job], int | None] = lambda job: None) -> None:
        self.started: list[str] = []
        self._before = before
        self._running: list[Job] = []
        self._killed: dict[str, Ending] = {}

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self._running.append(job)

    def ended(self) -> dict[str, Ending]:
        done = dict(self._killed)
        self._killed.clear()
        while self._running:
            job = self._running.pop()
            try:
                done[job.name] = Ending(self._run(job))
            except KeyboardInterrupt:
                self._killed[job.name] = Ending(-signal.SIGKILL)
                raise
        return done

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _run(self, job: Job) -> int:
        code = self._before(job)
        if code is not None:
            return code
        # What a trial says goes into its log.
        with (
            open(job.log, "a", encoding="utf-8") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            try:
                cli.main(list(job.arguments))
            except SystemExit as end:
                return int(end.code or 0)
        return 0


@contextmanager
def in_process(executor: InProcess, *, figures: bool = False) -> Iterator[None]:
    """Trials run by the executor, without waiting between them.

    Figures take seconds, so pages have them only where asked.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr(page, "comparison_pictures", lambda standings: [])
        patch.setattr(loop, "_executor", lambda place: executor)
        patch.setattr(loop, "_TICK_SECONDS", 0.0)
        yield
