"""How many clients take part in a round."""

from __future__ import annotations

from fedjax_rec.errors import InputError

__all__ = ["cohort_size"]


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
