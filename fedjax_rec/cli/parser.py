"""The type of the whole command line: commands, and a subcommand for every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fedjax_rec.cli.options import (
    CompareOptions,
    DataGet,
    DataInfo,
    DataList,
    DataOptions,
    DatasetOptions,
    DataSynth,
    Report,
    RunOptions,
    SweepOptions,
    TrainingOptions,
    TrialOptions,
)
from fedjax_rec.cli.values import cohort_size, keywords
from fedjax_rec.parsing import parse

if TYPE_CHECKING:
    from fedjax_rec.sweep import ParsedRun

__all__ = ["command_types", "parse_run", "preset_of"]

_SWEEP = "Run methods over many settings: each trial a process and a folder."
_COMPARE = "Run methods over seeds and compare them: scores, cost, significance, a page."


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

    kind = _methods(preset_of(arguments))[method]
    command = parse(kind, arguments, prog=f"fedjax-rec run {method}", description="")
    made = REGISTRY[method].factory(command.method)
    cohort_size(command.run.cohort)
    parts = (command.method, command.data, command.run)
    options = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
    options |= {"preset": getattr(command, "preset", None)}
    options |= {"data_options": keywords(command.data.data_options)}
    return ParsedRun(options, made.default_rounds)


def preset_of(arguments: Sequence[str]) -> str | None:
    """The value of --preset: it sets the defaults that the rest is parsed against."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--preset="):
            return argument.removeprefix("--preset=")
        if argument == "--preset" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def command_types(preset: str | None) -> Any:
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
    trials = ("trials", TrialOptions, field(default_factory=TrialOptions))
    compare = [
        ("compare", CompareOptions),
        ("data", DatasetOptions, field(default_factory=DatasetOptions)),
        ("train", TrainingOptions, field(default_factory=TrainingOptions)),
        trials,
    ]
    data = {"list": DataList, "info": DataInfo, "get": DataGet, "synth": DataSynth}
    return choice(
        {
            "run": _command("run", [("command", choice(methods))], "Train a method, evaluate it."),
            "sweep": _command("sweep", [("sweep", SweepOptions), trials], _SWEEP),
            "compare": _command("compare", compare, _COMPARE),
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
