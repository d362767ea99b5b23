"""Options checked: what is unknown is an error that names what is known."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["check_choice", "check_options", "check_seed", "did_you_mean"]


def check_options(options: Mapping[str, Any], signature: inspect.Signature, *, what: str) -> None:
    """Refuses options that a function does not take by keyword.

    Args:
      options: what the user gave.
      signature: of the function that is to take them.
      what: how to call that function in the message.

    Raises:
      InputError: an option is unknown.
    """
    known = [
        p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            raise InputError(
                f"{name}= is no option of {what}{did_you_mean(name, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices.

    Raises:
      InputError: it is none of them.
    """
    if value not in choices:
        raise InputError(
            f"{name}={value!r} is unknown{did_you_mean(str(value), choices)}; "
            f"take one of {', '.join(choices)}"
        )


def check_seed(seed: object) -> None:
    """Refuses a seed that NumPy would refuse with a riddle.

    Raises:
      InputError: it is no integer, or below 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed={seed!r} is no seed; give an integer of 0 or more")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`` (did you mean ml-100k?)`` where something known is close, else nothing."""
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
