"""A whole comparison: every contestant with every seed is a trial, run as a sweep's are."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from fedjax_rec.compare.contestants import Contestant
from fedjax_rec.compare.standings import Standings, make_standings
from fedjax_rec.data import Protocol, synthetic
from fedjax_rec.errors import InputError
from fedjax_rec.sweep.data_check import check_data
from fedjax_rec.sweep.manifest import Entry, Manifest
from fedjax_rec.sweep.run import Place, hold_trials, run_trials
from fedjax_rec.sweep.spec import Value
from fedjax_rec.sweep.trials import ParseRun, Point, Trial, make_trials

__all__ = ["MANIFEST", "ComparisonResult", "run_comparison"]

MANIFEST = "compare.json"
# What a folder's trials have in common for good: other data, another comparison.
_DATA = ("data", "data_options", "split", "clients", "client_limit", "click_noise")


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """What came of a comparison.

    Attributes:
      out: its folder.
      standings: of each protocol under which something is finished.
      page: the HTML page; None where nothing is finished.
      unfinished: the trials that failed or were killed, with their logs.
    """

    out: Path
    standings: tuple[Standings, ...]
    page: Path | None
    unfinished: tuple[Entry, ...]


class _Seat(NamedTuple):
    """Whose trial it is."""

    contestant: Contestant
    protocol: str
    seed: int


def run_comparison(
    contestants: Sequence[Contestant],
    parse_run: ParseRun,
    *,
    setting: Mapping[str, Value],
    protocols: Sequence[Protocol] = ("leak-free",),
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path | None = None,
    executor: Literal["local", "ray"] = "local",
    jobs: int | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    retry_failed: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> ComparisonResult:
    """Runs the trials that are not finished yet, and compares those that are.

    Every contestant × protocol × seed is a process with a folder, ``OUT/trials/NAME``, and a log,
    ``OUT/logs/NAME.log``. Whatever ends the comparison, the same call goes on with it: finished
    trials stay, half-finished ones go on from their checkpoint, failed ones are listed and left.
    So does a call with more contestants, seeds, protocols or rounds.

    Args:
      contestants: what is compared, see `read_contestants`.
      parse_run: the command line's parser, which checks every trial before the first one starts.
      setting: options of ``fedjax-rec run`` that all have (``data``, ``data_options.users``,
        ``rounds``); a contestant's own go before those that are not the data's.
      protocols: one, or both.
      seeds: each contestant runs with each, or with as many of the first as it says.
      out: the folder; None: ``runs/compare-DATA-SPLIT``.
      executor, jobs, cpus_per_trial, gpus_per_trial: where trials run, see `sweep.run.Place`.
      retry_failed: run those again that failed before.
      command: the command line that asked for it, for the page.
      console: where progress is shown; None: the standard error.

    Returns:
      What came of it. ``OUT`` holds ``compare.json`` (what was asked for and the trials' states),
      ``results.csv`` and ``results.parquet`` (a row a trial), and where something is finished
      ``comparison.json`` and ``comparison.parquet`` (a row a contestant and protocol), and
      ``comparison.html`` with its figures as PNG.

    Raises:
      InputError: contestants, options, data or a folder that cannot be used. No trial has been
        started; or finished runs that cannot be compared.
      KeyboardInterrupt: as `run_sweep`.
    """
    place = Place(executor, jobs, cpus_per_trial, gpus_per_trial)
    seats = _trials(contestants, parse_run, _as_run(setting), protocols, seeds)
    trials = [trial for trial, _ in seats.values()]
    check_data(trials)
    options = trials[0].options
    if out is None:
        name = Path(options["data"]).name if Path(options["data"]).exists() else options["data"]
        out = Path("runs") / re.sub(r"[^\w.-]+", "_", f"compare-{name}-{options['split']}")
    folder = Path(out)
    record = {
        "data": {name: options[name] for name in _DATA},
        "methods": [_described(c) for c in contestants],
        "protocols": list(protocols),
        "seeds": list(seeds),
        "setting": dict(setting),
        "command": command,
    }
    # As JSON has it: tuples are lists there.
    record = json.loads(json.dumps(record, default=str))
    _check_folder(folder, record["data"])
    with hold_trials(folder):
        manifest = Manifest(
            folder,
            trials,
            spec_text=json.dumps(record),
            retry_failed=retry_failed,
            name=MANIFEST,
        )
        notes = [f"not compared here, its folder stays: {name}" for name in manifest.left_out]
        run_trials(manifest, place, notes=notes, console=console)
        return _finish(folder, manifest, seats, record)


def _described(contestant: Contestant) -> dict[str, Value]:
    """As the record and the page have it."""
    few = {} if contestant.seeds is None else {"seeds": contestant.seeds}
    named: dict[str, Value] = {"label": contestant.label, "method": contestant.method}
    return {**named, **few, **contestant.options}


def _as_run(setting: Mapping[str, Value]) -> dict[str, Value]:
    """``clients`` groups users, as in ``fedjax-rec run``; in sweeps of synthetic data without a
    number of users it would ask for as many of these."""
    setting = dict(setting)
    if "clients" in setting and setting.get("data", "synthetic") == "synthetic":
        default = inspect.signature(synthetic).parameters["users"].default
        setting.setdefault("data_options.users", default)
    return setting


def _trials(
    contestants: Sequence[Contestant],
    parse_run: ParseRun,
    setting: Mapping[str, Value],
    protocols: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, tuple[Trial, _Seat]]:
    """By id, every trial and whose it is."""
    seats = [_Seat(c, p, s) for c in contestants for p in protocols for s in c.seeds_of(seeds)]
    points = []
    for contestant, protocol, seed in seats:
        axes: dict[str, Value] = {"label": contestant.label, "seed": seed}
        if len(protocols) > 1:
            axes["protocol"] = protocol
        options = {**setting, **contestant.options, "protocol": protocol, "seed": seed}
        points.append(Point(contestant.method, options, axes))
    trials = make_trials(points, parse_run)
    if len(trials) < len(points):
        raise InputError(_same_runs(seats, points, parse_run))
    found = {}
    for trial, seat in zip(trials, seats, strict=True):
        varying = [f"{n}={v}" for n, v in trial.axes.items() if n != "label"]
        readable = [seat.contestant.label, *varying]
        name = re.sub(r"[^\w.=+@-]+", "-", "_".join(readable))[-72:]
        label = " ".join(readable)
        found[trial.id] = replace(trial, name=f"{name}_{trial.id}", label=label), seat
    return found


def _same_runs(seats: Sequence[_Seat], points: Sequence[Point], parse_run: ParseRun) -> str:
    """Names two contestants that are one."""
    seen: dict[str, str] = {}
    for seat, point in zip(seats, points, strict=True):
        (trial,) = make_trials([point], parse_run)
        first = seen.setdefault(trial.id, seat.contestant.label)
        if first != seat.contestant.label:
            return f"{first!r} and {seat.contestant.label!r} are the same run: leave one out"
    raise AssertionError("trials of one contestant differ in protocol or seed")


def _check_folder(folder: Path, data: Mapping[str, Any]) -> None:
    """Refuses the folder of a comparison on other data."""
    file = folder / MANIFEST
    try:
        text = json.loads(file.read_text(encoding="utf-8"))["spec"]
        before = json.loads(text)["data"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file} is no comparison's: name another --out") from None
    for name, value in data.items():
        if before.get(name) != value:
            raise InputError(
                f"{folder} holds a comparison with {name} = {before.get(name)!r}, not {value!r}: "
                "name another --out"
            )


def _finish(
    out: Path,
    manifest: Manifest,
    seats: Mapping[str, tuple[Trial, _Seat]],
    record: Mapping[str, Any],
) -> ComparisonResult:
    # Plots take a second to import, which mistakes need not wait for.
    from fedjax_rec.compare.files import write_files
    from fedjax_rec.compare.page import write_page
    from fedjax_rec.sweep.results import results_frame, write_frame

    entries = list(manifest.entries.values())
    write_frame(results_frame(entries), out)
    standings = []
    for protocol in record["protocols"]:
        folders: dict[str, tuple[Contestant, dict[int, Path]]] = {}
        for id_, (_, seat) in seats.items():
            entry = manifest.entries[id_]
            if seat.protocol == protocol:
                _, finished = folders.setdefault(seat.contestant.label, (seat.contestant, {}))
                if entry.status == "finished":
                    finished[seat.seed] = entry.folder
        made = make_standings(protocol, record["seeds"], list(folders.values()))
        if made is not None:
            standings.append(made)
    unfinished = tuple(entry for entry in entries if entry.status != "finished")
    page = None
    if standings:
        write_files(out, standings, record, unfinished)
        page = write_page(out / "comparison.html", standings, record, unfinished)
    return ComparisonResult(out, tuple(standings), page, unfinished)
