"""A whole sweep: what is left to do is done, and what came of it is written down."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Console

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.folder import write_whole
from fedjax_rec.simulation.lock import hold
from fedjax_rec.sweep.data_check import check_data
from fedjax_rec.sweep.display import Display
from fedjax_rec.sweep.executors import Executor, LocalExecutor
from fedjax_rec.sweep.manifest import Entry, Manifest, is_finished
from fedjax_rec.sweep.process import Ending, Job, last_line
from fedjax_rec.sweep.spec import naming, read_spec
from fedjax_rec.sweep.trials import ParseRun, expand, make_trials

__all__ = ["Place", "SweepResult", "hold_trials", "run_sweep", "run_trials"]

_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Place:
    """Where trials run.

    Attributes:
      executor: "local": processes of this machine. "ray": tasks on a Ray cluster.
      jobs: trials at a time; None: one on this machine, as many as fit on a Ray cluster.
      cpus_per_trial, gpus_per_trial: what Ray gives a trial.

    Raises:
      InputError: numbers out of range.
    """

    executor: Literal["local", "ray"] = "local"
    jobs: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs {self.jobs} must be 1 or more")
        if not self.cpus_per_trial > 0:
            raise InputError(f"--cpus-per-trial {self.cpus_per_trial} must be above 0")
        if not self.gpus_per_trial >= 0:
            raise InputError(f"--gpus-per-trial {self.gpus_per_trial} must be 0 or more")


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep.

    Attributes:
      out: its folder.
      axes: the options that vary, as columns name them.
      frame: a row a trial, as ``results.csv``, see `results_frame`.
      unfinished: the trials that failed or were killed, with their logs.
    """

    out: Path
    axes: tuple[str, ...]
    frame: pd.DataFrame
    unfinished: tuple[Entry, ...]


def run_sweep(
    spec: str | Path,
    parse_run: ParseRun,
    *,
    out: str | Path | None = None,
    executor: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    retry_failed: bool = False,
    console: Console | None = None,
) -> SweepResult:
    """Runs the trials of a specification that are not finished yet.

    Every trial is a process of its own with a folder of its own, ``OUT/trials/NAME``, and a log,
    ``OUT/logs/NAME.log``. Whatever ends the sweep, the same call goes on with it: finished trials
    stay, half-finished ones go on from their checkpoint, failed ones are listed and left. Trials
    whose sweep has died end themselves. The specification may change in between: trials that it
    still has keep their folders, and no folder is ever removed.

    Args:
      spec: a TOML file, see `spec`.
      parse_run: the command line's parser, which checks every trial before the first one starts.
      out: the sweep's folder; None: ``runs/sweep-NAME``, NAME being the file's.
      executor: "local": processes of this machine. "ray": tasks on a Ray cluster.
      jobs: trials at a time; None: one on this machine, as many as fit on a Ray cluster.
      cpus_per_trial, gpus_per_trial: what Ray gives a trial.
      retry_failed: run those again that failed before.
      console: where progress is shown; None: the standard error.

    Returns:
      What came of it. ``OUT`` holds ``sweep.json`` (the specification and the trials' states),
      ``results.csv``, ``results.parquet``, and ``sweep.png`` where a number varies.

    Raises:
      InputError: a specification, a folder or an executor that cannot be used; another sweep runs
        in that folder. No trial has been started.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once the running trials have ended with a
        checkpoint; after a second one, at once.
    """
    path = Path(spec)
    place = Place(executor, jobs, cpus_per_trial, gpus_per_trial)
    specification = read_spec(path)
    with naming(path):
        points = expand(specification)
        trials = make_trials(points, parse_run)
        check_data(trials)
    folder = Path(out) if out is not None else Path("runs") / f"sweep-{path.stem}"
    with hold_trials(folder):
        manifest = Manifest(folder, trials, spec_text=specification.text, retry_failed=retry_failed)
        notes = [f"no longer in {path}, its folder stays: {name}" for name in manifest.left_out]
        if len(trials) < len(points):
            distinct = f"{len(points)} points mean {len(trials)} distinct runs: each runs once"
            notes.insert(0, distinct)
        return _finish(folder, run_trials(manifest, place, notes=notes, console=console))


@contextmanager
def hold_trials(folder: Path) -> Iterator[None]:
    """Makes a folder for trials and keeps other processes from running any in it.

    Raises:
      InputError: it cannot be made, or another process has it.
    """
    try:
        for part in ("trials", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}; name another --out"
        ) from error
    with hold(folder):
        yield


def run_trials(
    manifest: Manifest,
    place: Place,
    *,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> list[Entry]:
    """Runs the trials that wait, and shows how they get on.

    Args:
      manifest: of a folder that is held.
      place: where they run.
      notes: lines to show first.
      console: where to; None: the standard error.

    Returns:
      All trials, as they are then.

    Raises:
      KeyboardInterrupt: as `run_sweep`.
    """
    manifest.write()
    with Display(manifest, console) as display:
        for note in notes:
            display.say(note)
        waiting = [id_ for id_, e in manifest.entries.items() if e.status == "waiting"]
        if waiting:
            runner = _executor(place)
            try:
                _Loop(manifest, display, runner).run(waiting)
            finally:
                runner.close()
    return list(manifest.entries.values())


class _Loop:
    """Keeps an executor's slots filled until nothing is left, or somebody asks to stop."""

    def __init__(self, manifest: Manifest, display: Display, executor: Executor) -> None:
        self._manifest = manifest
        self._display = display
        self._executor = executor
        self._running: dict[str, tuple[str, int]] = {}  # name -> id, and where its log began

    def run(self, waiting: Sequence[str]) -> None:
        queue = deque(waiting)
        try:
            with _terminated_as_interrupted():
                while queue or self._running:
                    while queue and len(self._running) < self._executor.slots:
                        self._start(queue.popleft())
                    self._collect()
                    time.sleep(_TICK_SECONDS)
        except KeyboardInterrupt:
            self._wind_down()
            raise
        except BaseException:
            self._executor.kill()
            raise

    def _start(self, id_: str) -> None:
        entry = self._manifest.entries[id_]
        size = entry.log.stat().st_size if entry.log.exists() else 0
        job = Job(
            name=entry.folder.name,
            arguments=(
                *("run", entry.trial.method, *entry.trial.arguments),
                # Of a run that has not begun yet, --resume starts with round 1.
                *(f"--label={entry.trial.label}", f"--out={entry.folder}", "--resume"),
            ),
            folder=str(entry.folder.absolute()),
            log=str(entry.log.absolute()),
            directory=os.getcwd(),
        )
        self._manifest.set(id_, "running")
        self._running[job.name] = (id_, size)
        self._executor.start(job)
        self._display.started(id_)

    def _collect(self) -> None:
        for name, ending in self._executor.ended().items():
            id_, log_start = self._running.pop(name)
            self._settle(id_, ending, log_start)
            self._display.ended(id_)
        self._display.refresh()

    def _settle(self, id_: str, ending: Ending, log_start: int) -> None:
        entry = self._manifest.entries[id_]
        if is_finished(entry.folder, entry.trial):
            self._manifest.set(id_, "finished")
        elif ending.interrupted:
            self._manifest.set(id_, "killed", _killed_by(ending))
        else:
            said = last_line(entry.log, log_start).removeprefix("fedjax-rec: error: ")
            self._manifest.set(id_, "failed", said or f"ended with {ending.code}, saying nothing")

    def _wind_down(self) -> None:
        """Lets running trials end after their round; a second interruption ends them at once."""
        try:
            with _terminated_as_interrupted():
                if self._running:
                    self._display.say(
                        "stopping: running trials end after their round, with a checkpoint "
                        "(Ctrl-C again: at once)"
                    )
                self._executor.stop()
                while self._running:
                    self._collect()
                    time.sleep(_TICK_SECONDS)
        except KeyboardInterrupt:
            self._executor.kill()
            self._collect()


def _executor(place: Place) -> Executor:
    if place.executor == "local":
        return LocalExecutor(1 if place.jobs is None else place.jobs)
    # Ray takes seconds to import, and need not be installed.
    from fedjax_rec.sweep.ray_executor import RayExecutor

    return RayExecutor(place.jobs, cpus=place.cpus_per_trial, gpus=place.gpus_per_trial)


def _finish(out: Path, entries: list[Entry]) -> SweepResult:
    # Plots take a second to import, which mistakes in a specification need not wait for.
    from fedjax_rec.sweep.figure import sweep_figure
    from fedjax_rec.sweep.results import axes_of, results_frame, write_frame

    frame = results_frame(entries)
    write_frame(frame, out)
    axes = axes_of(entries)
    figure = sweep_figure(frame, axes)
    if figure is not None:
        picture = out / "sweep.png"
        try:
            write_whole(picture, lambda file: figure.savefig(file, format="png"), mode="wb")
        except OSError as error:
            raise InputError(f"cannot write {picture}: {error.strerror}") from error
    unfinished = tuple(entry for entry in entries if entry.status != "finished")
    return SweepResult(out, tuple(axes), frame, unfinished)


def _killed_by(ending: Ending) -> str:
    if ending.code is None:
        return ending.text
    if ending.code < 0:
        name = signal.Signals(-ending.code).name
        hint = " (short of memory?)" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    return "interrupted"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send, is taken as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
