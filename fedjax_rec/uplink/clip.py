"""Bound the Euclidean norm of every uploaded row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.uplink.transform import Transform, on_rows

__all__ = ["clip_rows"]


def clip_rows(max_norm: float) -> Transform:
    """Scales each row x to x · min(1, c/‖x‖₂). Bytes stay the same.

    Args:
      max_norm: c, the bound. It makes the sensitivity of an upload finite, which is what lets
        Laplace noise give an ε (see ``privacy``).

    Raises:
      InputError: a bound that is not positive and finite.
    """
    if not 0 < max_norm < float("inf"):
        raise InputError(f"clip={max_norm} must be a positive number")

    def clip(key: jax.Array, rows: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
        # A zero row divides by max_norm, not by 0.
        return rows * (max_norm / jnp.maximum(norm, max_norm))

    return on_rows(clip)
