"""Command-line parsing by tyro, with its help and its errors made plain: one line each."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from fedjax_rec.errors import InputError

__all__ = ["parse"]

_NOT_GIVEN = "unset"


def parse(kind: Any, arguments: Sequence[str], *, prog: str, description: str) -> Any:
    """Parses a command line into an instance of ``kind``.

    Args:
      kind: a dataclass, or a union of annotated ones for subcommands.
      arguments: without the program's name.
      prog: the program's name.
      description: what ``--help`` begins with.

    Returns:
      The instance.

    Raises:
      InputError: arguments that do not fit, told in one line.
      SystemExit: after ``--help``.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
                registry=_registry(),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(_one_line(said.getvalue(), prog, arguments)) from None


def _registry() -> ConstructorRegistry:
    """Numbers, words and paths, each possibly left unset.

    tyro's own rules show an optional number as ``{None}|INT`` and answer a wrong one with the
    failures of every member of the union.
    """
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        union = get_origin(info.type) in (Union, UnionType)
        members = [t for t in (get_args(info.type) if union else (info.type,)) if t is not NoneType]
        words = [w for t in members if get_origin(t) is Literal for w in get_args(t)]
        plain = [t for t in members if get_origin(t) is not Literal]
        if len(plain) > 1 or any(t not in _CONVERSIONS for t in plain) or not members:
            return None
        if words and not plain and not union:
            return None  # a plain choice: tyro says all that there is to say
        return _specification(plain[0] if plain else None, words)

    return registry


def _specification(kind: Any, words: list[str]) -> PrimitiveConstructorSpec:
    name, noun, convert = _CONVERSIONS.get(kind, ("", "", None))
    wanted = " or ".join([*([noun] if noun else []), *map(repr, words)])

    def from_text(texts: list[str]) -> Any:
        text = texts[0]
        if text in words:
            return text
        try:
            if convert is not None:
                return convert(text)
        except ValueError:
            pass
        raise ValueError(f"{text!r} is not {wanted}")

    metavar = "{" + ",".join(words) + "}" if not name else "|".join([name, *words])
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=from_text,
        is_instance=lambda value: value is None or value in words or isinstance(value, kind or ()),
        str_from_instance=lambda value: [_NOT_GIVEN if value is None else str(value)],
    )


_CONVERSIONS: dict[Any, tuple[str, str, Callable[[str], Any]]] = {
    int: ("INT", "a whole number", int),
    float: ("FLOAT", "a number", float),
    str: ("TEXT", "text", str),
    Path: ("PATH", "a path", Path),
}


def _one_line(box: str, prog: str, arguments: Sequence[str]) -> str:
    """What tyro's error box says: its message, the nearest option if it names one, the help."""
    lines = [re.sub(r"^[\s│]+|[\s│]+$", "", line) for line in box.splitlines()]
    text = "\n".join(line for line in lines if not re.match(r"[╭╰]", line))
    message, *others = re.split(r"\n─+\n", text)
    hint = " ".join(others)
    message = message.replace("\n", " ").strip().rstrip(".")
    message = re.sub(r"^Error parsing (-\S+):", r"\1:", message)
    message = re.sub(r"^Error parsing [^-\s]\S*: ", "", message)  # tyro's name of a dataclass
    message = re.sub(
        r"^Missing value for argument '(.*)'. Expected 1 values", r"\1: no value", message
    )

    parts = [message]
    near = re.search(r"Perhaps you meant:?\s+(--[\w-]+)", hint)
    if near:
        parts.append(f"did you mean {near[1]}?")
    choices = re.search(r"Available subcommands: ([\w-]+(?:, [\w-]+)*)", hint)
    if choices:
        parts.append(f"choose from {choices[1]}")
    unknown = re.match(r"Unrecognized options: (.*)", message)
    wrong = unknown[1].split(", ") if unknown else []
    commands = takewhile(lambda word: not word.startswith("-") and word not in wrong, arguments)
    parts.append(f"see {' '.join([prog, *commands])} --help")
    return "; ".join(parts)
