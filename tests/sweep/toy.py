"""Specifications as text, a parser that needs no methods, and an executor that trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.errors import InputError
from fedjax_rec.sweep.process import Ending, Job
from fedjax_rec.sweep.trials import ParsedRun
from tests.reports.fakes import write_run

__all__ = ["FakeExecutor", "parse_toy", "write_spec"]

_DEFAULTS: dict[str, Any] = {
    **{"lr": 0.1, "dim": 32, "init_std": 1.0, "widths": (), "gsa": True, "clusters": 10},
    **{"data": "synthetic", "data_options": {}, "clients": None, "client_limit": None},
    **{"rounds": None, "seed": 0, "chunk": "auto", "out": None, "resume": False, "label": None},
    **{"no_report": False, "quiet": False, "devices": None, "checkpoint_every": 10},
    "preset": None,
}
_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "lr": float,
    "init_std": float,
    "dim": int,
    "rounds": int,
    "clients": int,
    "client_limit": int,
}


def parse_toy(method: str, arguments: Sequence[str]) -> ParsedRun:
    """Options as written, every one known; the real parser takes a tenth of a second a call."""
    options = dict(_DEFAULTS)
    words = list(arguments)
    while words:
        name, _, value = words.pop(0).removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name == "data_options":
            options[name] = dict(word.split("=") for word in words)
            words = []
        elif name == "widths":
            options[name] = (words.pop(0), words.pop(0))
        elif name == "no_gsa":
            options["gsa"] = False
        elif name == "lr" and float(value) <= 0:
            raise InputError(f"lr={value} must be above 0")
        else:
            options[name] = _CONVERSIONS.get(name, str)(value) if value else True
    return ParsedRun(options, default_rounds=40)


def write_spec(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


class FakeExecutor:
    """Ends every job at the next question.

    Args:
      endings: what becomes of a job, by its name: 0 leaves a finished run, any other
        status leaves a line in the log.
      slots: how many at a time.
    """

    def __init__(self, endings: Callable[[str], int] = lambda name: 0, slots: int = 2) -> None:
        self.slots = slots
        self.started: list[Job] = []
        self.most = 0
        self.told: list[str] = []
        self._endings = endings
        self._running: list[Job] = []

    def start(self, job: Job) -> None:
        self.started.append(job)
        self._running.append(job)
        self.most = max(self.most, len(self._running))

    def ended(self) -> dict[str, Ending]:
        return {job.name: self._end(job) for job in self._taken()}

    def stop(self) -> None:
        self.told.append("stop")

    def kill(self) -> None:
        self.told.append("kill")

    def close(self) -> None:
        self.told.append("close")

    def _taken(self) -> list[Job]:
        taken, self._running = self._running, []
        return taken

    def _end(self, job: Job) -> Ending:
        code = self._endings(job.name)
        if code == 0:
            rounds = next(int(w[9:]) for w in job.arguments if w.startswith("--rounds="))
            sizes = {"items": 20, "clusters": 4, "dim": 2}
            write_run(Path(job.folder), job.arguments[1], rounds=rounds, **sizes)
        else:
            with open(job.log, "a", encoding="utf-8") as log:
                log.write("compiling\nfedjax-rec: error: something is wrong with it\n\n")
        return Ending(code)
