"""Values of options that are more than one word or number."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from fedjax_rec.errors import InputError

__all__ = ["cohort_size", "keywords", "seed_list"]


def cohort_size(text: str) -> float | int:
    """``"0.1"`` -> a fraction, ``"10"`` -> a number of clients.

    Raises:
      InputError: neither.
    """
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        raise InputError(
            f"--cohort {text!r} is no number: use a fraction such as 0.1, or a number of clients"
        ) from None


def keywords(pairs: Sequence[str]) -> dict[str, Any]:
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


def seed_list(text: str) -> tuple[int, ...]:
    """``"3"`` -> ``(0, 1, 2)``, ``"0,3,7"`` -> ``(0, 3, 7)``.

    Raises:
      InputError: no seed, one below 0, or one that is there twice.
    """
    try:
        numbers = tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        numbers = ()
    seeds = numbers if "," in text else tuple(range(numbers[0] if numbers else 0))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds {text!r} is neither a number of seeds, such as 3, nor a list of distinct "
            "ones, such as 0,3,7"
        )
    return seeds
