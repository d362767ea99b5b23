"""Bound the Euclidean norm of every uploaded row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.uplink.transform import Transform, on_rows

__all__ = ["clip_rows"]


def clip_rows(max_norm: float) -> Transform:
    """Scales each row x to x · min(1, c/‖x‖₂). Bytes stay the same.

    A row that holds a NaN or an infinity comes out as NaN, which stops training.

    Args:
      max_norm: c, the bound. It makes the sensitivity of an upload finite, which is what lets
        Laplace noise give an ε (see ``privacy``).

    Raises:
      InputError: a bound that is not positive and finite.
    """
    if not 0 < max_norm < float("inf"):
        raise InputError(f"clip={max_norm} must be a positive number")

    def clip(key: jax.Array, rows: jax.Array) -> jax.Array:
        # Squares overflow float32 from 1e19 on; of rows divided by their largest value they do not.
        # (A diverged row must come out with norm c, not as zeros.)
        peak = jnp.maximum(jnp.max(jnp.abs(rows), axis=-1, keepdims=True), max_norm)
        scaled = rows / peak
        norm = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
        bound = max_norm / peak
        return jnp.where(norm <= bound, rows, scaled * (max_norm / norm))

    return on_rows(clip)
