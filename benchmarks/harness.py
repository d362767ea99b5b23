"""What every benchmark shares: options, the environment's record, the table, repeats."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import pandas as pd
import psutil
import rich.console
import rich.markup
import rich.table
import tyro

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError, TrainingError

__all__ = [
    "Options",
    "Table",
    "dataset",
    "environment",
    "main",
    "median",
    "round_seconds",
    "metrics_at",
    "write_json",
]

RESULTS = Path(__file__).parent / "results"
BUSY = 0.2  # share of the CPU from which a table warns that the machine was not its own
PACKAGES = ("fedjax-rec", "jax", "jaxlib", "numpy", "scikit-learn", "torch")


@dataclass(frozen=True)
class Options:
    """Options of every benchmark.

    Attributes:
      toy: a tiny synthetic problem instead of the real size: seconds, and no figure to quote.
      seed: of the data's splits, the runs and the reference.
      results: folder of the JSON; by default benchmarks/results, and none with --toy.
      devices: host devices on a CPU; by default one a core.
    """

    toy: bool = False
    seed: int = 0
    results: Path | None = None
    devices: int | None = None


@dataclass
class Table:
    """One benchmark's result: printed for people, written as JSON for everything else.

    The file is written again at every row, whole or not at all, so that a run that stops early
    keeps what it measured.

    Attributes:
      name: the file's stem, ``<name>.json``.
      title: one line over the table.
      options: what the benchmark was called with.
      notes: lines under the table: what a reader must know to read the figures rightly.
      rows: one mapping a row; the columns are the keys in order of first appearance.
      environment: machine, versions and load at the start.
    """

    name: str
    title: str
    options: Options
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=lambda: environment())

    def add(self, **row: Any) -> None:
        """Appends a row and saves. Values: str, bool, int, float or None (not measured)."""
        self.rows.append(row)
        self.save()

    def note(self, line: str) -> None:
        """Appends a note and saves."""
        self.notes.append(line)
        self.save()

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row))

    @property
    def warnings(self) -> list[str]:
        """What spoils the figures, if anything did."""
        busy = self.environment["cpu_busy"]
        if busy <= BUSY:
            return []
        return [
            f"WARNING: other programs kept {busy:.0%} of the CPU busy at the start. Timings "
            "suffer, the PyTorch loop's most (its threads wait for each other): do not quote "
            "the ratios."
        ]

    def save(self) -> Path | None:
        """Writes the JSON atomically; returns its path, or None where none is wanted (--toy)."""
        folder = self.options.results or (None if self.options.toy else RESULTS)
        if folder is None:
            return None
        content = asdict(self) | {
            "warnings": self.warnings,
            "options": _plain(asdict(self.options)),
        }
        return write_json(folder / f"{self.name}.json", content)

    def show(self) -> None:
        """Prints the table, its notes and where the JSON lies."""
        kind = "TOY SIZE, no figure to quote: " if self.options.toy else ""
        console = rich.console.Console()
        table = self._layout(kind + self.title)
        # Measured on endless paper: a console caps what it measures at its own width.
        wanted = rich.console.Console(width=10_000).measure(table).maximum
        if wanted > console.width and len(self.rows) <= 4:
            table = self._layout(kind + self.title, upright=True)
        elif wanted > console.width and not console.is_terminal:
            console = rich.console.Console(width=wanted)  # a file has room for every column
        console.print(table)
        machine = self.environment
        console.print(
            f"{machine['cpu']}, {machine['cores']} cores; {machine['device']}; "
            f"load at start {machine['load_average']}"
        )
        for line in [*self.notes, *self.warnings]:
            console.print(f"- {rich.markup.escape(line)}")
        path = self.save()
        if path is not None:
            console.print(f"written: {path}")

    def _layout(self, title: str, *, upright: bool = False) -> rich.table.Table:
        """One line a row; `upright`, for many columns: one line a column."""
        lines = [[_cell(row.get(column)) for column in self.columns] for row in self.rows]
        table = rich.table.Table(title=title, show_header=not upright)
        if upright:
            table.add_column(style="bold")
            for _ in lines:
                table.add_column(justify="right")
            for column, *cells in zip(self.columns, *lines, strict=True):
                table.add_row(column, *cells)
            return table
        for column in self.columns:
            numeric = all(isinstance(row.get(column), int | float | None) for row in self.rows)
            table.add_column(column, justify="right" if numeric else "left")
        for line in lines:
            table.add_row(*line)
        return table


OptionsT = TypeVar("OptionsT", bound=Options)


def main(options: type[OptionsT], run: Callable[[OptionsT], Table], description: str) -> None:
    """Parses the command line, runs, shows. Exit status 2, with one line, for a user's mistake."""
    chosen = tyro.cli(options, description=description)
    # Only possible before JAX first looks for devices, hence here and not in the benchmarks.
    jax.config.update("jax_num_cpu_devices", chosen.devices or len(os.sched_getaffinity(0)))
    try:
        run(chosen).show()
    except (InputError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def environment() -> dict[str, Any]:
    """The machine and the software, with nothing that names a host or a user.

    ``cpu_busy`` is the share of all cores that was in use just now, by any program; the load
    averages still remember what ended a minute ago.
    """
    devices = jax.devices()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "device": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})",
        "cpu_busy": psutil.cpu_percent(interval=0.2) / 100,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "threads": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "XLA_FLAGS") if k in os.environ},
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "git_commit": _git_commit(),
    }


def dataset(name: str, options: Options) -> Dataset:
    """The named dataset, or with --toy a small synthetic one."""
    if options.toy:
        return fedjax_rec.load_dataset("synthetic", users=30, items=60, seed=options.seed)
    return fedjax_rec.load_dataset(name)


def median(values: Any) -> float:
    """Median of measurements.

    Raises:
      ValueError: if there are none, or one is not finite: a figure must not hide that.
    """
    measured = np.asarray(list(values), float)
    if not len(measured) or not np.isfinite(measured).all():
        raise ValueError(f"cannot take the median of {measured.tolist()}")
    return float(np.median(measured))


def round_seconds(timings: pd.DataFrame, *, skip: int) -> np.ndarray:
    """Seconds of each round after compilation and without evaluation.

    Args:
      timings: `Result.timings`, one row a round.
      skip: rounds at the start to leave out. Two for CGFedRec, whose first round has no labels
        and whose second meets the contrastive program for the first time.

    Returns:
      [rounds - skip] float64.

    Raises:
      ValueError: if no round is left.
    """
    if len(timings) <= skip:
        raise ValueError(f"{len(timings)} rounds leave none after the first {skip}")
    steady = timings.iloc[skip:]
    seconds = steady["seconds"] - steady["compile_seconds"] - steady["eval_seconds"]
    return seconds.to_numpy(float)


def metrics_at(history: pd.DataFrame, round_: int | None = None) -> pd.Series:
    """The test row of a round; of the last evaluated round for None.

    Args:
      history: `Result.history`, one row per evaluated round and split.
      round_: which round.

    Raises:
      ValueError: if that round was not evaluated.
    """
    rows = history[history["split"] == "test"]
    if round_ is not None:
        rows = rows[rows["round"] == round_]
    if rows.empty:
        raise ValueError(f"round {round_} has no test row: was it evaluated?")
    return rows.iloc[-1]


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes JSON so that readers see the old file or the new one, never a half.

    Raises:
      ValueError: if a number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own beside the target, so that a failure leaves nothing behind.
    with tempfile.TemporaryDirectory(dir=path.parent, suffix=".tmp") as folder:
        partial = Path(folder) / path.name
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        if value and not math.isnan(value) and not 0.001 <= abs(value) < 1e6:
            return f"{value:.3g}"
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON; folders are a matter of the machine, not of the figure."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in options.items()
        if key != "results" and not isinstance(value, Path)
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit, marked where the tree differs from it; None outside a checkout."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
