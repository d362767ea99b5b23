"""From a specification to trials: expanded, and each checked as the command line would check it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from fedjax_rec.data.options import did_you_mean
from fedjax_rec.errors import InputError
from fedjax_rec.sweep.draws import draw
from fedjax_rec.sweep.spec import Spec, Value

__all__ = ["ParseRun", "ParsedRun", "Point", "Trial", "axis_title", "expand", "make_trials"]

DATA = "data_options."
_UNSET = "unset"  # as help texts write it: the option is left out
_OWN = ("out", "resume", "label")  # each trial has its own: the sweep sets them
# What decides none of a run's numbers: a trial stays the same one when these change, unless it is
# them that the sweep varies.
_FREE = ("rounds", "chunk", "devices", "state", "checkpoint_every")
_SILENT = ("quiet", "no_report")
_LONGEST = 72  # characters of a readable name, which becomes that of a folder


class ParsedRun(NamedTuple):
    """What the command line makes of one run's options.

    Attributes:
      options: every option by its name in Python -> its value; ``data_options`` is a dict.
      default_rounds: the method's own number of rounds.
    """

    options: Mapping[str, Any]
    default_rounds: int


#: Parses (method, options) as ``fedjax-rec run`` does; raises InputError where that would.
ParseRun: TypeAlias = Callable[[str, Sequence[str]], ParsedRun]


@dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
      method: its method.
      options: option -> value, fixed ones included.
      axes: those of them that vary over the sweep, ``method`` among them where there are several.
    """

    method: str
    options: Mapping[str, Value]
    axes: Mapping[str, Value]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      id: a hash of all that decides its numbers, as far as it differs from the defaults: the same
        trial has the same id in an edited specification.
      name: of its folder: what varies, then the id.
      label: what varies, for reports.
      method: its method.
      axes: option -> value, of those that vary over the sweep.
      arguments: of ``fedjax-rec run METHOD``, without folder, label and --resume.
      rounds: how many it runs.
      options: every option, resolved.
    """

    id: str
    name: str
    label: str
    method: str
    axes: Mapping[str, Value]
    arguments: tuple[str, ...]
    rounds: int
    options: Mapping[str, Any]


def expand(spec: Spec) -> list[Point]:
    """All combinations: method by method, draw by draw, the last axis of the grid fastest.

    Args:
      spec: the specification.

    Returns:
      One point each: for a method draws × the product of its axes' lengths.
    """
    drawn = {
        name: draw(distribution, spec.draws, seed=spec.seed, name=name)
        for name, distribution in spec.random.items()
    }
    points = []
    for method in spec.methods:
        own = spec.own.get(method)
        fixed, grid = dict(spec.common.fixed), dict(spec.common.grid)
        if own:
            fixed |= own.fixed
            grid |= own.grid
        named = {"method": method} if len(spec.methods) > 1 else {}
        for number, combination in itertools.product(
            range(spec.draws), itertools.product(*grid.values())
        ):
            axes = {name: values[number] for name, values in drawn.items()}
            axes |= dict(zip(grid, combination, strict=True))
            # What varies for this method may stand among what is fixed for all.
            points.append(Point(method, fixed | axes, named | axes))
    return points


def make_trials(points: Sequence[Point], parse_run: ParseRun) -> list[Trial]:
    """The trials of a sweep, each checked.

    Args:
      points: of `expand`.
      parse_run: the command line's parser.

    Returns:
      One trial for every distinct run that the points mean: draws may coincide.

    Raises:
      InputError: an option that does not exist, or does not take its value.
    """

    @cache
    def defaults(method: str, preset: str | None) -> ParsedRun:
        return parse_run(method, () if preset is None else (f"--preset={preset}",))

    trials: dict[str, Trial] = {}
    for point in points:
        trial = _trial(point, parse_run, defaults)
        trials.setdefault(trial.id, trial)
    return list(trials.values())


def axis_title(option: str) -> str:
    """An option's name for people and folders: ``data_options.items`` is ``items``."""
    return option.removeprefix(DATA)


def _trial(point, parse_run, defaults):
    given = _as_users(point.options)
    preset = given.pop("preset", _UNSET)
    preset = None if preset == _UNSET else preset
    known = defaults(point.method, preset)
    arguments = [] if preset is None else [f"--preset={preset}"]
    arguments += _arguments(point, given, known.options)
    parsed = parse_run(point.method, arguments)
    plain = defaults(point.method, None).options
    skipped = {*_OWN, *_SILENT, *(name for name in _FREE if name not in point.axes), "preset"}
    decisive = {
        name: value
        for name, value in parsed.options.items()
        if name not in skipped and value != plain[name]
    }
    identity = json.dumps([point.method, decisive], sort_keys=True, default=str)
    id_ = hashlib.sha256(identity.encode()).hexdigest()[:10]
    parts = [f"{axis_title(name)}={_text(value)}" for name, value in point.axes.items()]
    readable = [point.method, *(part for part in parts if not part.startswith("method="))]
    folder = re.sub(r"[^\w.=+-]+", "-", "_".join(readable))[:_LONGEST]
    rounds = parsed.options["rounds"]
    return Trial(
        id=id_,
        name=f"{folder}_{id_}",
        label=" ".join(readable),
        method=point.method,
        axes=point.axes,
        arguments=tuple(arguments),
        rounds=parsed.default_rounds if rounds is None else rounds,
        options=parsed.options,
    )


def _as_users(options):
    """``clients = N`` on synthetic data asks for N clients: as many users are made.

    Where the number of users is given, clients are silos of them, as everywhere else.
    """
    options = dict(options)
    synthetic = options.get("data", "synthetic") == "synthetic"
    if synthetic and "clients" in options and f"{DATA}users" not in options:
        options[f"{DATA}users"] = options.pop("clients")
    return options


def _arguments(point: Point, given: Mapping[str, Value], defaults: Mapping[str, Any]) -> list[str]:
    """The command line of a point: which options there are is what its parser said of defaults."""
    method, out = point.method, []
    data = [f"{axis_title(k)}={_text(v)}" for k, v in given.items() if k.startswith(DATA)]
    for name, value in given.items():
        if name.startswith(DATA) or value == _UNSET:
            continue
        if name in _OWN:
            raise InputError(f"{name} is set by the sweep, for every trial its own: leave it out")
        if name not in defaults:
            several = "options of one method stand in a table of its name; "
            raise InputError(
                f"{name} is no option of fedjax-rec run {method}{did_you_mean(name, defaults)}; "
                + (several if "method" in point.axes else "")
                + f"see fedjax-rec run {method} --help"
            )
        out += list(_words(name, value, defaults[name]))
    if "no_report" not in given:
        out.append("--no-report")  # a page a trial is rarely wanted, and takes seconds
    return out + (["--data-options", *data] if data else [])


def _words(name: str, value: Value, default: Any) -> Iterator[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{name} = {value!r} must be true or false")
        if value != default:
            yield option if value else "--no-" + option.removeprefix("--")
    elif isinstance(default, tuple):
        yield option
        yield from map(_text, value if isinstance(value, tuple) else (value,))
    elif isinstance(value, tuple):
        raise InputError(f"{name} = {list(value)!r} takes one value: put what varies into [grid]")
    else:
        yield f"{option}={_text(value)}"


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-".join(map(_text, value)) if isinstance(value, tuple) else str(value)
