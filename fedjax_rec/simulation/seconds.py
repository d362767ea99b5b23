"""Where a round's wall time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Seconds", "Watch"]


class Seconds(NamedTuple):
    """Wall time of one round by where it went; they add up to the round's wall time."""

    compile: float = 0.0
    device: float = 0.0
    host: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other):
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def total(self) -> float:
        return sum(self)


class Watch:
    """Adds up wall time by where it goes."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(Seconds._fields, 0.0)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - start

    def seconds(self) -> Seconds:
        return Seconds(**self._spent)
