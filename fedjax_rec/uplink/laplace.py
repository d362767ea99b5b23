"""Laplace noise on every uploaded value: local differential privacy."""

from __future__ import annotations

import jax

from fedjax_rec.errors import InputError
from fedjax_rec.uplink.transform import Transform, on_rows

__all__ = ["laplace"]


def laplace(scale: float) -> Transform:
    """Adds independent Laplace(0, δ) noise to every value. Bytes stay the same.

    Noise is drawn in the row's own precision: in float32 it never exceeds about 16·δ, and its low
    bits are not those of real numbers, so an ε (see ``privacy``) is that of ideal noise.

    Args:
      scale: δ, the scale of the noise (its standard deviation is √2·δ).

    Raises:
      InputError: a scale that is negative or not finite.
    """
    if not 0 <= scale < float("inf"):
        raise InputError(f"laplace={scale} must be 0 or a positive number")

    def add_noise(key: jax.Array, rows: jax.Array) -> jax.Array:
        return rows + scale * jax.random.laplace(key, rows.shape, rows.dtype)

    return on_rows(add_noise)
