"""Distributions of a ``[random]`` table, and what is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["Distribution", "draw", "read_distribution"]

_KINDS = ("uniform", "log_uniform", "int_uniform", "choice")
_DIGITS = 6  # of a drawn float: what is read in a table is what was run


@dataclass(frozen=True)
class Distribution:
    """Where an option's value is drawn from.

    Attributes:
      kind: "uniform" and "log_uniform" on [low, high), "int_uniform" on low … high (both
        included), or "choice", each with the same probability.
      values: (low, high), or the choices.
    """

    kind: str
    values: tuple[Any, ...]


def read_distribution(name: str, table: object) -> Distribution:
    """A distribution as a file has it, such as ``{log_uniform = [1e-4, 1e-1]}``.

    Args:
      name: the option's, for messages.
      table: what stands there.

    Raises:
      InputError: it is no table of one known kind, or its bounds are not in order.
    """
    if not isinstance(table, Mapping) or len(table) != 1:
        raise InputError(
            f"[random] {name} = {table!r} is no distribution: write it as "
            f"{name} = {{log_uniform = [1e-4, 1e-1]}}, or uniform, int_uniform, choice"
        )
    ((kind, values),) = table.items()
    check_choice(f"[random] {name}: distribution", kind, _KINDS)
    if not isinstance(values, list) or not values:
        raise InputError(f"[random] {name}: {kind} = {values!r} must be a list that is not empty")
    if kind != "choice":
        _check_bounds(name, kind, values)
    return Distribution(kind, tuple(tuple(v) if isinstance(v, list) else v for v in values))


def draw(distribution: Distribution, count: int, *, seed: int, name: str) -> list[Any]:
    """Draws values for an option.

    Every option has a stream of its own, which is read from its beginning: more draws, or more
    options, leave the values drawn before as they were.

    Args:
      distribution: where from.
      count: how many.
      seed: of the sweep's ``[random]`` table.
      name: the option's.

    Returns:
      ``count`` values; floats rounded to 6 significant digits, within their bounds.
    """
    shares = host_rng(seed, 0, Purpose.SWEEP, *name.encode()).random(count).tolist()
    values = distribution.values
    if distribution.kind == "choice":
        return [values[int(share * len(values))] for share in shares]
    low, high = values
    if distribution.kind == "int_uniform":
        return [low + int(share * (high - low + 1)) for share in shares]
    if distribution.kind == "log_uniform":
        drawn = [math.exp(np.interp(share, (0, 1), np.log((low, high)))) for share in shares]
    else:
        drawn = [low + share * (high - low) for share in shares]
    return [min(max(float(f"{value:.{_DIGITS}g}"), low), high) for value in drawn]


def _check_bounds(name: str, kind: str, values: list[Any]) -> None:
    whole = kind == "int_uniform"
    wanted: Any = int if whole else (int, float)
    fits = (
        len(values) == 2
        and all(isinstance(v, wanted) and not isinstance(v, bool) for v in values)
        and all(math.isfinite(v) for v in values)
        and values[0] < values[1]
        and (kind != "log_uniform" or values[0] > 0)
    )
    if not fits:
        numbers = "two whole numbers" if whole else "two numbers"
        positive = ", both above 0" if kind == "log_uniform" else ""
        raise InputError(
            f"[random] {name}: {kind} = {values!r} must be {numbers}, the smaller first{positive}"
        )
