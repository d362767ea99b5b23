"""Conjugate gradients that fit codebooks to items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.native.build import load

__all__ = ["fit_by_conjugate_gradients"]


def fit_by_conjugate_gradients(
    books: jax.Array,
    shares: jax.Array,
    codes: jax.Array,
    target: jax.Array,
    importance: jax.Array,
    *,
    steps: int,
    least_gain: float,
    least_squared: float,
) -> jax.Array:
    """Fits Σ_ℓ shares_ℓ · B_ℓ[q_ℓ(i)] to items, by the steps of ``methods.codebook_fit``.

    Args:
      books: [L, M, d] float32, to start from.
      shares: [L] float32, what each level counts in an item, above 0.
      codes: [n, L] integers.
      target: [n, d] float32.
      importance: [n] float32, 0 or more; items of 0 are left out.
      steps: at most so many.
      least_gain: ends where a step lowers the squared error by less than this share of the first.
      least_squared: ends where the squared gradient is less than this share of the first.

    Returns:
      [L, M, d] the fitted codebooks.

    Raises:
      InputError: no C++ compiler, where it is first used.
    """
    name = load("codebook_cg.cc", "CodebookCg")
    call = jax.ffi.ffi_call(
        name, jax.ShapeDtypeStruct(books.shape, jnp.float32), vmap_method="sequential"
    )
    return call(
        books,
        shares,
        codes.astype(jnp.int32),
        target,
        importance,
        steps=np.int64(steps),
        least_gain=np.float32(least_gain),
        least_squared=np.float32(least_squared),
    )
