"""``fedjax-rec run METHOD``: from parsed options to a run, its folder and its report."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_rec import supervisor
from fedjax_rec.cli.values import cohort_size, keywords
from fedjax_rec.errors import InputError

__all__ = ["run", "show_runs"]


def run(command: Any, arguments: Sequence[str], supervised: bool) -> None:
    """Trains a method, shows its table and says where its report lies.

    Args:
      command: parsed: ``name`` of the method, its options ``method``, ``data`` and ``run``.
      arguments: the command line, for the record and for processes that are started with it.
      supervised: whether a supervisor watches over this process, one of several of a run.
    """
    import fedjax_rec
    from fedjax_rec.data import inject_clicks, make_problem
    from fedjax_rec.simulation import distribution, joining
    from fedjax_rec.simulation.compile_cache import use_compile_cache

    data, options = command.data, command.run
    place = joining.place(options.coordinator, options.process, options.processes)
    several = joining.cluster_detected() if place is None else place.processes > 1
    if several and options.out is None:
        raise InputError("several processes need one folder for their run: name it with --out")
    if several and not supervised:
        script = [sys.executable, "-IS", supervisor.__file__]
        os.execv(sys.executable, [*script, *arguments])
    use_compile_cache(options.compile_cache)
    method = fedjax_rec.methods.REGISTRY[command.name].factory(command.method)
    dataset = fedjax_rec.load_dataset(data.data, **keywords(data.data_options))
    problem = make_problem(
        dataset,
        split=data.split,
        protocol=data.protocol,
        clients=data.clients,
        client_limit=data.client_limit,
        seed=options.seed,
    )
    problem = inject_clicks(problem, data.click_noise, seed=options.seed)
    out = options.out or _free_folder(
        f"{command.name}-{dataset.name}-{data.protocol}-seed{options.seed}", options.resume
    )
    cohort = cohort_size(options.cohort)
    if several:
        joining.join(place, seconds=options.join_seconds)
    result = fedjax_rec.simulate(
        method,
        problem,
        rounds=options.rounds,
        seed=options.seed,
        cohort=cohort,
        eval_every=options.eval_every,
        evaluate_at=options.evaluate_at,
        chunk=options.chunk,
        devices=options.devices,
        state=options.state,
        state_dtype=options.state_dtype,
        precision=options.precision,
        kernel=options.kernel,
        checkpoint_every=options.checkpoint_every,
        out=out,
        resume=options.resume,
        report=not options.no_report,
        debug=options.debug,
        progress=not options.quiet,
        label=options.label,
        command=shlex.join(["fedjax-rec", *arguments]),
    )
    del result
    if not distribution.leads():
        return
    show_runs([out])
    print(f"run: {out}" if options.no_report else f"report: {out / 'report.html'}")


def show_runs(runs: Sequence[Path]) -> None:
    """Prints the table of runs, by their folders."""
    from rich.console import Console

    from fedjax_rec.reports import comparison_table, load_run

    Console().print(comparison_table([load_run(run) for run in runs]))


def _free_folder(name, resume):
    """``runs/NAME``, numbered where it is taken; to be resumed, the latest that is taken."""
    first = Path("runs") / re.sub(r"[^\w.-]+", "_", name)
    latest, free = first, first
    for number in itertools.count(2):
        if not free.exists():
            return latest if resume else free
        latest, free = free, first.with_name(f"{first.name}-{number}")
    raise AssertionError("there is always a free number")
