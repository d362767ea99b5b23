"""The mean of many clients' Laplace noise, drawn once."""

from __future__ import annotations

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["add_mean_laplace"]

_ROWS = 1024  # a block of noise, so that no second matrix is made


def add_mean_laplace(
    matrix: np.ndarray, *, scale: float, clients: int, rng: np.random.Generator
) -> None:
    r"""Adds to a symmetric matrix, in place, the mean noise of clients that each noised their own.

    A Laplace(0, δ) variable is δ·(X − X') with two independent standard exponentials. The mean of
    K of them is therefore δ/K·(Γ_K − Γ'_K), with two independent Gamma(K, 1) variables: exact, and
    K times cheaper than K draws of m × m. Every pair of items is drawn once, since it travels
    once: the noise is symmetric, and the diagonal has its own.

    Args:
      matrix: [m, m] float, symmetric, writable.
      scale: δ of a client's noise.
      clients: K.
      rng: the generator.

    Raises:
      InputError: a scale that is negative or not finite, or no clients.
    """
    if not 0 <= scale < float("inf"):
        raise InputError(f"laplace={scale} must be 0 or a positive number")
    if clients < 1:
        raise InputError(f"the mean noise of {clients} clients: there must be at least 1")
    items = len(matrix)
    for start in range(0, items, _ROWS):
        stop = min(start + _ROWS, items)
        shape = (stop - start, items - start)
        noise = rng.standard_gamma(clients, shape)
        noise -= rng.standard_gamma(clients, shape)
        noise *= scale / clients
        own = noise[:, : stop - start]
        own[:] = np.triu(own) + np.triu(own, 1).T
        matrix[start:stop, start:] += noise
        matrix[stop:, start:stop] += noise[:, stop - start :].T
