"""Rates and weights as arguments of compiled programs: a sweep over them compiles once.

A number that a program takes from a method's options is a constant of it, so every value means
compiling anew, and that takes longer than many a run. So options name those of their numbers that
are only computed with, in a class variable `ARGUMENTS`; the engine gives them to its programs as
arguments, and code that computes with one asks ``traced`` for the options. What is decided while a
program is traced (whether there is a decay at all) goes by the options themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

__all__ = ["arguments_of", "taking_arguments", "traced"]

Options = TypeVar("Options")

# The options of the program that is being traced, and the same with arguments for numbers.
_GIVEN: ContextVar[tuple[Any, Any] | None] = ContextVar("given", default=None)


def arguments_of(options: Any) -> dict[str, np.float32]:
    """The numbers among a method's options that its programs take as arguments.

    A 0 and an unset one are left out: without a term, a program does not compute it.

    Args:
      options: of any class. It and each of its bases may have `ARGUMENTS`, names of its fields.
    """
    names = [name for base in type(options).__mro__ for name in vars(base).get("ARGUMENTS", ())]
    return {name: np.float32(value) for name in names if (value := getattr(options, name))}


def taking_arguments(options: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for a program, with the arguments of ``arguments_of`` before its own.

    Args:
      options: the method's.
      function: may ask for ``traced(options)``.
    """

    def program(arguments, *rest):
        changed = copy.copy(options)
        for name, value in arguments.items():
            object.__setattr__(changed, name, value)  # they are frozen, and check what they get
        token = _GIVEN.set((options, changed))
        try:
            return function(*rest)
        finally:
            _GIVEN.reset(token)

    # What it is called in profiles and in the compile cache.
    program.__name__ = getattr(function, "__name__", "program")
    return program


def traced(options: Options) -> Options:
    """The options with the arguments of the program that is being traced in place of numbers.

    The options themselves, where none is, or where they are not those of its method.
    """
    found = _GIVEN.get()
    return found[1] if found is not None and found[0] is options else options
