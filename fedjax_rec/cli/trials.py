"""``fedjax-rec sweep`` and ``fedjax-rec compare``: many runs, each a process and a folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from fedjax_rec.cli.options import CompareOptions, DatasetOptions, TrainingOptions
from fedjax_rec.cli.parser import parse_run
from fedjax_rec.cli.values import keywords, seed_list

if TYPE_CHECKING:
    from fedjax_rec.sweep.manifest import Entry

__all__ = ["TRIALS_FAILED", "compare", "sweep"]

#: Exit status where some trials failed or were killed.
TRIALS_FAILED = 1


def sweep(command: Any) -> None:
    """Runs what is left of a sweep and prints its table.

    Args:
      command: parsed: `SweepOptions` as ``sweep``, `TrialOptions` as ``trials``.

    Raises:
      SystemExit: trials failed.
    """
    from rich.console import Console

    from fedjax_rec.sweep import run_sweep
    from fedjax_rec.sweep.results import results_table

    options, where = command.sweep, dataclasses.asdict(command.trials)
    done = run_sweep(options.spec, parse_run, out=options.out, **where)
    Console().print(results_table(done.frame, done.axes))
    print(f"results: {done.out / 'results.csv'}")
    _end(done.unfinished)


def compare(command: Any, arguments: Sequence[str]) -> None:
    """Runs what is left of a comparison, prints its tables and says where its page lies.

    Args:
      command: parsed: `CompareOptions` as ``compare``, `DatasetOptions` as ``data``,
        `TrainingOptions` as ``train``, `TrialOptions` as ``trials``.
      arguments: the command line, for the record.

    Raises:
      SystemExit: trials failed.
    """
    from rich.console import Console

    from fedjax_rec.compare import caption, comparison_tables, read_contestants, run_comparison
    from fedjax_rec.data import Protocol

    options: CompareOptions = command.compare
    data: DatasetOptions = command.data
    train: TrainingOptions = command.train
    setting = _changed(data) | _changed(train)
    setting.pop("data_options", None)
    keywords(data.data_options)  # refuses what is not NAME=VALUE; the parser of a run reads it
    for pair in data.data_options:
        name, _, value = pair.partition("=")
        setting[f"data_options.{name}"] = value
    both: tuple[Protocol, ...] = get_args(Protocol)
    protocols = both if options.protocol == "both" else (options.protocol,)
    done = run_comparison(
        read_contestants(options.methods),
        parse_run,
        setting=setting,
        protocols=protocols,
        seeds=seed_list(options.seeds),
        command=shlex.join(["fedjax-rec", *arguments]),
        out=options.out,
        **dataclasses.asdict(command.trials),
    )
    console = Console()
    for table in comparison_tables(done.standings):
        console.print(table)
        console.print()
    if done.standings:
        console.print("\n".join(caption(done.standings[-1])), markup=False, highlight=False)
    print(f"results: {done.out / 'comparison.json'}")
    if done.page is not None:
        print(f"report: {done.page}")
    _end(done.unfinished)


def _changed(options: Any) -> dict[str, Any]:
    """The options that differ from their defaults: the others are the parser's to set."""
    found = {f.name: (getattr(options, f.name), f.default) for f in dataclasses.fields(options)}
    return {name: value for name, (value, default) in found.items() if value != default}


def _end(unfinished: Sequence[Entry]) -> None:
    for entry in unfinished:
        print(f"{entry.status}: {entry.folder.name}: {entry.error} (see {entry.log})")
    if unfinished:
        raise SystemExit(TRIALS_FAILED)
