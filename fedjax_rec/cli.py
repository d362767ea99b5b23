"""The command line: parses into dataclasses, calls the API, nothing more.

A user's mistake ends with one line on the standard error and status 2.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fedjax_rec import supervisor
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.parsing import parse

if TYPE_CHECKING:
    from fedjax_rec.sweep import ParsedRun

__all__ = ["main", "parse_run", "worker"]

_TRIALS_FAILED = 1
_USAGE_ERROR = 2
_INTERRUPTED = 130


@dataclass(frozen=True)
class DataOptions:
    """What to train on.

    Attributes:
      data: synthetic, a known dataset (see fedjax-rec data list), or the path of a file.
      data_options: options of the synthetic generator or of the reader, as NAME=VALUE, such as
        users=1000 items=500, or timestamp=3.
      protocol: leak-free: training negatives come from all items that the user does not train on.
        published: from outside the user's whole history, as in the papers' releases, for
        comparing with their tables; figures are inflated.
      split: loo: leave one out by time, ranked among 99 sampled items and among all. ratio: 72 %
        training, 8 % validation, 20 % test, ranked among all.
      clients: number of clients that the users are grouped into; unset: one user each, or the
        dataset's own grouping.
      client_limit: use the first N clients only; all items stay.
      click_noise: random items to add to what every user trains on, as a share of it: 0.1 is 10 %.
    """

    data: str = "synthetic"
    data_options: tuple[str, ...] = ()
    protocol: Literal["leak-free", "published"] = "leak-free"
    split: Literal["loo", "ratio"] = "loo"
    clients: int | None = None
    client_limit: int | None = None
    click_noise: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """How to run it.

    Attributes:
      rounds: communication rounds; unset: the method's own number.
      cohort: clients taking part in a round: a fraction with a decimal point (0.1), or a number.
      seed: seed of everything random.
      eval_every: evaluate every N rounds, and after the last.
      evaluate_at: download: what a user would be served at the start of the next round. trained:
        right after local training. Unset: download; under published, as the method's release.
      chunk: clients trained side by side on a device, or auto. Bounds memory.
      devices: devices to use, of each process; unset: all (on a CPU, one a core).
      state: where clients' states are between rounds: device, host (memory), disk (files in --out),
        or auto, the nearest of them with room.
      state_dtype: what they are kept in: bfloat16 takes half of float32's memory, int8 a quarter.
      precision: of matrix products on an accelerator: default is its fast form (TF32, bfloat16),
        high is float32 throughout.
      checkpoint_every: rounds between checkpoints.
      out: folder of the run; unset: runs/METHOD-DATA-PROTOCOL-seedS, numbered where it is taken.
      resume: go on with the run in --out; without --out, with the latest one of that name.
      label: the run's name in reports; unset: the method's.
      no_report: write no report.html at the end.
      debug: client by client, without jit: slow, but errors name their place.
      quiet: no line a round.
      coordinator: HOST:PORT of process 0, for a run of several processes, on one host or many. All
        get the same options but --process, and an --out that all can read; process 0 writes. Unset:
        as Slurm, Open MPI or a TPU pod says.
      process: which of the processes this is, from 0.
      processes: how many there are. A resumed run may have another number.
      join_seconds: how long to wait until all processes have come.
    """

    rounds: int | None = None
    cohort: str = "1.0"
    seed: int = 0
    eval_every: int = 1
    evaluate_at: Literal["download", "trained"] | None = None
    chunk: int | Literal["auto"] = "auto"
    devices: int | None = None
    state: Literal["auto", "device", "host", "disk"] = "auto"
    state_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    precision: Literal["default", "high"] = "default"
    checkpoint_every: int = 10
    out: Path | None = None
    resume: bool = False
    label: str | None = None
    no_report: bool = False
    debug: bool = False
    quiet: bool = False
    coordinator: str | None = None
    process: int | None = None
    processes: int | None = None
    join_seconds: int = 120


@dataclass(frozen=True)
class DataList:
    """List the datasets that have a name."""


@dataclass(frozen=True)
class DataInfo:
    """Show what a dataset is, its statistics and what its reader noticed.

    Attributes:
      name: a known dataset, synthetic, or a path.
      data_options: as of run --data-options.
    """

    name: tyro.conf.Positional[str]
    data_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataGet:
    """Download a known dataset into the cache, checked, with its licence shown.

    Attributes:
      name: see fedjax-rec data list.
    """

    name: tyro.conf.Positional[str]


@dataclass(frozen=True)
class DataSynth:
    """Write a synthetic dataset with planted clusters as RecBole atomic files.

    Attributes:
      out: the .inter file to write; the .item file goes beside it.
      users: number of users.
      items: number of items.
      clusters: planted item clusters.
      interactions_per_user: mean number of interactions.
      seed: of the generator.
    """

    out: tyro.conf.Positional[Path]
    users: int = 400
    items: int = 300
    clusters: int = 12
    interactions_per_user: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """Report on one run, or compare several: a table here, and an HTML page.

    Attributes:
      runs: folders written by fedjax-rec run.
      out: the page; unset: report.html in the only run's folder, or compare.html here.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None


@dataclass(frozen=True)
class Sweep:
    """Run methods over many settings: each trial a process and a folder. Goes on where it stopped.

    Attributes:
      spec: TOML file: options of run by their names, [grid] lists, [random] distributions.
      out: folder of the sweep; unset: runs/sweep-SPEC. The same command goes on with it.
      executor: local: processes of this machine. ray: tasks on a Ray cluster (RAY_ADDRESS), or on
        one of this machine's own.
      jobs: trials at a time; unset: one on this machine, as many as a Ray cluster has room for.
      cpus_per_trial: what Ray reserves for a trial.
      gpus_per_trial: what Ray reserves for a trial.
      retry_failed: run those again that failed before.
    """

    spec: tyro.conf.Positional[Path]
    out: Path | None = None
    executor: Literal["local", "ray"] = "local"
    jobs: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    retry_failed: bool = False


DESCRIPTION = """Federated recommendation, simulated with all clients as one batched pytree.

    fedjax-rec run cgfedrec --data ml-100k --rounds 100
    fedjax-rec run local --data ml-100k --protocol published
    fedjax-rec sweep SPEC.toml
    fedjax-rec report runs/*"""


def main(argv: Sequence[str] | None = None, *, supervised: bool = False) -> None:
    """Entry point of ``fedjax-rec``.

    Exits with 0, 1 (trials of a sweep failed), 2 (a mistake, one line) or 130 (Ctrl-C).

    Args:
      argv: arguments; None: the process's.
      supervised: whether a supervisor watches over this process, one of several of a run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments, supervised)
    except (InputError, TrainingError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as with ``| head``


def worker() -> None:
    """Entry point of one process of several, under a supervisor: ``main``, and its own end.

    Where the run fails here, the others may be waiting for this process, or be gone: JAX's clean-up
    at the exit would wait for them in turn.
    """
    from fedjax_rec.simulation import joining

    supervisor.end_with_supervisor()
    status = 0
    try:
        main(supervised=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    joining.leave(orderly=status == 0)
    os._exit(status)


def _dispatch(arguments, supervised):
    command = parse(
        _commands(_preset(arguments)), arguments, prog="fedjax-rec", description=DESCRIPTION
    )
    command = getattr(command, "command", command)
    if isinstance(command, DataList):
        _data_list()
    elif isinstance(command, DataInfo):
        _data_info(command)
    elif isinstance(command, DataGet):
        _data_get(command)
    elif isinstance(command, DataSynth):
        _data_synth(command)
    elif isinstance(command, Report):
        _report(command)
    elif isinstance(command, Sweep):
        _sweep(command)
    else:
        _run(command, arguments, supervised)


def _preset(arguments):
    """The value of --preset: it sets the defaults that the rest is parsed against."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--preset="):
            return argument.removeprefix("--preset=")
        if argument == "--preset" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _commands(preset):
    """The type of the whole command line: commands, and a subcommand for every method.

    Args:
      preset: settings to take a method's defaults from, where it has such a preset.
    """

    def choice(types):
        choices: Any = None
        for name, kind in types.items():
            text = (kind.__doc__ or "").strip().splitlines()[0]
            command = tyro.conf.subcommand(name, description=text, prefix_name=False)
            one: Any = Annotated[kind, command]
            choices = one if choices is None else choices | one
        return choices

    methods = _methods(preset)
    data = {"list": DataList, "info": DataInfo, "get": DataGet, "synth": DataSynth}
    return choice(
        {
            "run": _command("run", [("command", choice(methods))], "Train a method, evaluate it."),
            "sweep": Sweep,
            "data": _command("data", [("command", choice(data))], "List, inspect, get, make data."),
            "report": Report,
        }
    )


def _methods(preset):
    """Method -> the type of the options of ``fedjax-rec run METHOD``."""
    from fedjax_rec.methods import PRESETS, REGISTRY

    methods = {}
    for name, entry in REGISTRY.items():
        presets = PRESETS.get(name, {})
        config = partial(entry.config, **presets.get(preset, {}))
        fields: list[Any] = [("method", entry.config, field(default_factory=config))]
        for part, kind in {"data": DataOptions, "run": RunOptions}.items():
            fields.append((part, kind, field(default_factory=kind)))
        if presets:
            about = "Settings to start from; unset: the method's defaults."
            literal: Any = Literal  # of names known at run time only
            chosen: Any = Annotated[literal[tuple(presets)] | None, tyro.conf.arg(help=about)]
            fields.append(("preset", chosen, None))
        methods[name] = _command(name, fields, _summary(entry.factory))
    return methods


def _command(name, fields, doc):
    # Built here rather than written out: the methods come from the registry.
    namespace = {"__doc__": doc, "name": name}
    return dataclasses.make_dataclass("Command", fields, namespace=namespace, frozen=True)


def _summary(factory):
    return (factory.__doc__ or "").strip().splitlines()[0]


def _run(command, arguments, supervised):
    import fedjax_rec
    from fedjax_rec.data import inject_clicks, make_problem
    from fedjax_rec.simulation import distribution, joining

    data, run = command.data, command.run
    place = joining.place(run.coordinator, run.process, run.processes)
    several = joining.cluster_detected() if place is None else place.processes > 1
    if several and run.out is None:
        raise InputError("several processes need one folder for their run: name it with --out")
    if several and not supervised:
        script = [sys.executable, "-IS", supervisor.__file__]
        os.execv(sys.executable, [*script, *arguments])
    method = fedjax_rec.methods.REGISTRY[command.name].factory(command.method)
    dataset = fedjax_rec.load_dataset(data.data, **_keywords(data.data_options))
    problem = make_problem(
        dataset,
        split=data.split,
        protocol=data.protocol,
        clients=data.clients,
        client_limit=data.client_limit,
        seed=run.seed,
    )
    problem = inject_clicks(problem, data.click_noise, seed=run.seed)
    out = run.out or _free_folder(
        f"{command.name}-{dataset.name}-{data.protocol}-seed{run.seed}", run.resume
    )
    cohort = _cohort(run.cohort)
    if several:
        joining.join(place, seconds=run.join_seconds)
    result = fedjax_rec.simulate(
        method,
        problem,
        rounds=run.rounds,
        seed=run.seed,
        cohort=cohort,
        eval_every=run.eval_every,
        evaluate_at=run.evaluate_at,
        chunk=run.chunk,
        devices=run.devices,
        state=run.state,
        state_dtype=run.state_dtype,
        precision=run.precision,
        checkpoint_every=run.checkpoint_every,
        out=out,
        resume=run.resume,
        report=not run.no_report,
        debug=run.debug,
        progress=not run.quiet,
        label=run.label,
        command=shlex.join(["fedjax-rec", *arguments]),
    )
    del result
    if not distribution.leads():
        return
    _show([out])
    print(f"run: {out}" if run.no_report else f"report: {out / 'report.html'}")


def parse_run(method: str, arguments: Sequence[str]) -> ParsedRun:
    """What ``fedjax-rec run METHOD ARGUMENTS`` would run, checked as far as no data is needed.

    Args:
      method: a name of the registry.
      arguments: the method's options and those of data and run.

    Raises:
      InputError: arguments that do not fit, told as the command would tell it.
    """
    from fedjax_rec.methods import REGISTRY
    from fedjax_rec.sweep import ParsedRun

    kind = _methods(_preset(arguments))[method]
    command = parse(kind, arguments, prog=f"fedjax-rec run {method}", description="")
    made = REGISTRY[method].factory(command.method)
    _cohort(command.run.cohort)
    parts = (command.method, command.data, command.run)
    options = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
    options |= {"preset": getattr(command, "preset", None)}
    options |= {"data_options": _keywords(command.data.data_options)}
    return ParsedRun(options, made.default_rounds)


def _sweep(command):
    from rich.console import Console

    from fedjax_rec.sweep import run_sweep
    from fedjax_rec.sweep.results import results_table

    options = {k: v for k, v in dataclasses.asdict(command).items() if k != "spec"}
    done = run_sweep(command.spec, parse_run, **options)
    Console().print(results_table(done.frame, done.axes))
    print(f"results: {done.out / 'results.csv'}")
    for entry in done.unfinished:
        print(f"{entry.status}: {entry.folder.name}: {entry.error} (see {entry.log})")
    if done.unfinished:
        raise SystemExit(_TRIALS_FAILED)


def _report(command):
    from fedjax_rec.reports import write_report

    if not command.runs:
        raise InputError("report: name at least one run folder, such as runs/*")
    out = command.out
    if out is None:
        out = command.runs[0] / "report.html" if len(command.runs) == 1 else Path("compare.html")
    page = write_report(command.runs, out)
    _show(command.runs)
    print(f"report: {page}")


def _data_list():
    from rich.console import Console
    from rich.table import Table

    from fedjax_rec.data import KNOWN_DATASETS

    table = Table("name", "users", "items", "interactions", "splits", "what")
    table.columns[0].no_wrap = True
    table.add_row(
        "synthetic", *"···", "loo, ratio", "planted clusters and tastes, made on the spot"
    )
    for known in KNOWN_DATASETS.values():
        counts = (f"{n:,}" for n in (known.users, known.items, known.interactions))
        table.add_row(known.name, *counts, ", ".join(known.splits), known.title)
    Console().print(table)
    print("or the path of a file: see fedjax-rec data info --help")


def _data_info(command):
    import numpy as np

    from fedjax_rec.data import KNOWN_DATASETS, load_dataset

    known = KNOWN_DATASETS.get(command.name)
    if known is not None:
        print(f"{known.name}: {known.title}\nlicence: {known.licence}\nfrom: {known.homepage}")
    dataset = load_dataset(command.name, **_keywords(command.data_options))
    counts = np.bincount(dataset.user, minlength=dataset.num_users)
    density = dataset.num_interactions / (dataset.num_users * dataset.num_items)
    print(
        f"users: {dataset.num_users:,}\n"
        f"items: {dataset.num_items:,}\n"
        f"interactions: {dataset.num_interactions:,} (density {100 * density:.2f} %)\n"
        f"interactions a user: {counts.min()} to {counts.max()}, median {np.median(counts):.0f}\n"
        f"times: {'yes' if dataset.timestamp is not None else 'no (use --split ratio)'}\n"
        f"titles: {'yes' if dataset.item_titles is not None else 'no'}\n"
        f"genres: {'yes' if dataset.item_genres is not None else 'no'}\n"
        f"own split: {'yes' if dataset.split is not None else 'no'}"
    )
    for note in dataset.notes:
        print(f"note: {note}")


def _data_get(command):
    from fedjax_rec.data import locate

    path, notes = locate(command.name)
    for note in notes:
        print(f"note: {note}")
    print(path)


def _data_synth(command):
    from fedjax_rec.data import synthetic, write_recbole

    options = {k: v for k, v in dataclasses.asdict(command).items() if k != "out"}
    for path in write_recbole(synthetic(**options), command.out):
        print(path)


def _show(runs):
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


def _cohort(text: str) -> float | int:
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        raise InputError(
            f"--cohort {text!r} is no number: use a fraction such as 0.1, or a number of clients"
        ) from None


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """``["users=1000"]`` -> ``{"users": 1000}``; what is no Python literal stays text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise InputError(f"--data-options {pair!r} is not of the form name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def _fail(message: str) -> None:
    print(f"{supervisor.ERROR}{message}", file=sys.stderr)
    raise SystemExit(_USAGE_ERROR)


if __name__ == "__main__":
    main()
