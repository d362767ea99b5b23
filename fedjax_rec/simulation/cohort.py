"""Who takes part in a round."""

from __future__ import annotations

import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["cohort_size", "draw_cohort"]


def cohort_size(cohort: float | int, num_clients: int) -> int:
    """Number of clients a round, from a fraction (float) or a number (int).

    Raises:
      InputError: a cohort of nobody, or of more clients than there are.
    """
    if isinstance(cohort, float):
        if not 0 < cohort <= 1:
            raise InputError(f"cohort={cohort} as a fraction must be above 0 and at most 1")
        size = round(cohort * num_clients)
        if size < 1:
            raise InputError(
                f"cohort={cohort} of {num_clients} clients is an empty cohort: "
                f"use at least {1 / num_clients:.2g}, or a whole number of clients"
            )
        return size
    if not 1 <= cohort <= num_clients:
        raise InputError(
            f"cohort={cohort} must be from 1 to the number of clients, {num_clients} "
            "(a fraction has a decimal point, such as 0.1 or 1.0)"
        )
    return cohort


def draw_cohort(size: int, num_clients: int, *, seed: int, round_: int) -> np.ndarray:
    """The clients of a round, without replacement, each with the same probability.

    Args:
      size: from 1 to ``num_clients``, as ``cohort_size``.
      num_clients: how many there are.
      seed: of the run.
      round_: 1, 2, …

    Returns:
      [size] int64 ids, ascending.
    """
    if size == num_clients:
        return np.arange(num_clients)
    rng = host_rng(seed, round_, Purpose.COHORT)
    return np.sort(rng.choice(num_clients, size, replace=False))
