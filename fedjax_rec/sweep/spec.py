"""A sweep's specification: a TOML file in, settings, grids and distributions out.

.. code-block:: toml

    method = ["pfedrec", "cgfedrec"]    # or one name
    rounds = 20                         # any option of `fedjax-rec run`, by its name
    clients = [100, 1000]               # a list here too: client counts are what is swept most
    data_options = {items = 500}        # NAME = VALUE of --data-options

    [grid]                              # every combination of these
    lr = [0.05, 0.1]

    [random]                            # and each of them for every draw of these
    trials = 10
    seed = 0
    dim = {choice = [16, 32, 64]}
    init_std = {log_uniform = [1e-3, 1.0]}

    [cgfedrec]                          # of this method only
    clusters = 30
    grid = {contrast_weight = [0.0, 0.005]}

Nothing in it is evaluated. Whether an option exists and takes a value is not known here: `trials`
asks the parser of the command line.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from fedjax_rec.data.options import check_choice, check_seed, did_you_mean
from fedjax_rec.errors import InputError
from fedjax_rec.methods import REGISTRY
from fedjax_rec.sweep.draws import Distribution, read_distribution

__all__ = ["Settings", "Spec", "Value", "naming", "read_spec"]

#: A tuple is one value of an option that takes several, such as ``--widths 16 32``.
Value: TypeAlias = str | int | float | bool | tuple[Any, ...]

_LISTS = ("method", "clients")  # may be lists outside of [grid]
_DATA = "data_options"


@dataclass(frozen=True)
class Settings:
    """Options by name (``lr``, ``data_options.items``): fixed, and those that vary.

    Attributes:
      fixed: option -> value.
      grid: option -> values, of which every combination is wanted.
    """

    fixed: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Spec:
    """A specification.

    Attributes:
      path: its file.
      text: the file's text, for the record.
      methods: what to train.
      common: settings of all methods.
      own: method -> settings of that one only; a fixed one goes before a common one.
      random: option -> distribution; its draws apply to all methods.
      draws: number of draws; 1 where nothing is random.
      seed: of the draws.
    """

    path: Path
    text: str
    methods: tuple[str, ...]
    common: Settings
    own: Mapping[str, Settings]
    random: Mapping[str, Distribution]
    draws: int = 1
    seed: int = 0


def read_spec(path: Path) -> Spec:
    """Reads a specification.

    Args:
      path: a TOML file.

    Returns:
      The specification, its names normalized (``local-epochs`` is ``local_epochs``).

    Raises:
      InputError: it cannot be read, is no TOML, or its shape is not that of a specification.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); name a TOML file") from None
    with naming(path):
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"is no TOML: {error}; see https://toml.io") from None
        return _spec(path, text, content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the specification's name before what an InputError says."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _spec(path, text, content):
    content = _normalized(content, "")
    grid = content.pop("grid", {})
    random = content.pop("random", {})
    for name, table in {"grid": grid, "random": random}.items():
        if not isinstance(table, dict):
            raise InputError(f"{name} must be a table: write [{name}]")
    own = {name: content.pop(name) for name in REGISTRY if isinstance(content.get(name), dict)}
    grid = _normalized(grid, "[grid] ")
    for name in _LISTS:
        if isinstance(content.get(name), list):
            if name in grid:
                raise InputError(f"{name} is a list at the top and in [grid]: keep one of them")
            grid[name] = content.pop(name)
    methods = _methods(content.pop("method", None), grid.pop("method", None))
    draws, seed, distributions = _random(_normalized(random, "[random] "))
    common = Settings(_fixed(content, ""), _grid(grid, "[grid]"))
    owned = {name: _own(name, table) for name, table in own.items()}

    for name in distributions:
        if name in common.fixed or name in common.grid:
            raise InputError(f"{name} stands in [random] and elsewhere: keep one of them")
    for name in common.grid:
        if name in common.fixed:
            raise InputError(f"{name} stands in [grid] and at the top: keep one of them")
    for method, settings in owned.items():
        if method not in methods:
            raise InputError(
                f"[{method}] is a table of a method that is not swept: add it to method"
            )
        for name in (*settings.fixed, *settings.grid):
            if name in common.grid or name in distributions:
                raise InputError(f"{name} varies for all methods and stands in [{method}] too")
    return Spec(path, text, methods, common, owned, distributions, draws, seed)


def _methods(single, several):
    if single is not None and several is not None:
        raise InputError("method stands at the top and in [grid]: keep one of them")
    names = several if several is not None else [single]
    if names == [None]:
        raise InputError('no method: write, for instance, method = "pfedrec"')
    if not isinstance(names, list) or not names:
        raise InputError(f"method = {names!r} must be a name, or a list of names")
    for name in names:
        check_choice("method", name, REGISTRY)
    _check_distinct("method", names)
    return tuple(names)


def _random(table):
    table = dict(table)
    if not table:
        return 1, 0, {}
    draws, seed = table.pop("trials", None), table.pop("seed", 0)
    if isinstance(seed, dict):
        raise InputError("[random] seed is that of the draws: list the runs' seeds in [grid]")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"[random] needs trials = N, the number of draws, and has {draws!r}")
    check_seed(seed)
    if not table:
        raise InputError(
            "[random] draws nothing: add, for instance, lr = {log_uniform = [1e-3, 1]}"
        )
    named = _flat(table, "[random]", tables=True)
    return draws, seed, {name: read_distribution(name, given) for name, given in named.items()}


def _own(method, table):
    table = _normalized(table, f"[{method}] ")
    grid = table.pop("grid", {})
    if not isinstance(grid, dict):
        raise InputError(f"grid in [{method}] must be a table: write [{method}.grid]")
    fixed = _fixed(table, f"[{method}] ")
    varied = _grid(_normalized(grid, f"[{method}.grid] "), f"[{method}.grid]")
    for name in varied:
        if name in fixed:
            raise InputError(f"{name} stands in [{method}] and in [{method}.grid]: keep one")
    return Settings(fixed, varied)


def _fixed(table, where):
    flat = _flat(table, where.strip() or "the file")
    return {name: _value(f"{where}{name}", value) for name, value in flat.items()}


def _grid(table, where):
    out = {}
    for name, values in _flat(table, where).items():
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{where} {name} = {values!r} must be a list of values, such as [1, 2]; what does "
                "not vary stands outside of it"
            )
        found = tuple(_value(f"{where} {name}", value) for value in values)
        _check_distinct(f"{where} {name}", found)
        out[name] = found
    return out


def _flat(table, where, *, tables=False):
    """``{"data_options": {"items": 3}}`` -> ``{"data_options.items": 3}``.

    ``tables`` says whether options may have tables for values.
    """
    out: dict[str, Any] = {}
    for name, value in table.items():
        if name == _DATA and isinstance(value, dict):
            out |= {f"{_DATA}.{option}": inner for option, inner in value.items()}
        elif name == _DATA:
            raise InputError(f"{_DATA} must be a table, such as {_DATA} = {{users = 1000}}")
        elif isinstance(value, dict) and not tables:
            near = did_you_mean(name, ("grid", "random", _DATA, *REGISTRY))
            raise InputError(
                f"{name} in {where} is a table{near}: there are [grid], [random], data_options and "
                f"tables named as a method ({', '.join(REGISTRY)})"
            )
        else:
            out[name] = value
    return out


def _normalized(table, where):
    """Options named as in Python; tables of methods keep their names (``fedcia-gf``)."""
    out = {}
    for name, value in table.items():
        plain = name if name in REGISTRY else name.replace("-", "_")
        if plain in out:
            raise InputError(f"{where}{plain} stands there twice, with - and with _")
        out[plain] = value
    return out


def _value(name, value):
    if isinstance(value, list):
        return tuple(_value(name, inner) for inner in value)
    if not isinstance(value, str | int | float) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise InputError(f"{name} = {value} is no finite number, text, true or false")
    return value


def _check_distinct(name, values):
    for index, value in enumerate(values):
        if value in values[:index]:
            raise InputError(f"{name} lists {value!r} twice")
