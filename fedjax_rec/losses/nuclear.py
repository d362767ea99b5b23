"""Nuclear norm of a tall matrix: the sum of its singular values."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.losses.pairwise import dot

__all__ = ["nuclear_norm"]


@jax.custom_vjp
def nuclear_norm(rows: jax.Array) -> jax.Array:
    """‖X‖_* = Σ_k σ_k(X), from the eigenvalues σ² of XᵀX, which is only [d, d].

    The gradient is X·(XᵀX)^(−½), with 0 for directions in which X is zero: of the subgradients
    there, the smallest. Squares halve float32's digits, so a σ below about 10⁻³ of the largest
    counts as zero.

    Args:
      rows: [n, d] float, X. Rows of zeros change nothing, so they may be padding.

    Returns:
      [] the norm. Differentiable once, in reverse mode; safe under jit and vmap.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(nuclear_norm(jnp.array([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]))), 3)
      7.0
    """
    return _forward(rows)[0]


def _forward(rows):
    squares, vectors = jnp.linalg.eigh(dot(rows.T, rows))
    noise = rows.shape[1] * jnp.finfo(rows.dtype).eps * squares[-1]
    counts = squares > noise
    values = jnp.sqrt(jnp.where(counts, squares, 1))
    inverse = jnp.where(counts, 1 / values, 0)
    gradient = dot(rows, (vectors * inverse) @ vectors.T)
    return jnp.sum(jnp.where(counts, values, 0)), gradient


def _backward(gradient, cotangent):
    return (cotangent * gradient,)


nuclear_norm.defvjp(_forward, _backward)
