"""The reduction of the FedCIA family: the sum of the clients' Gram matrices."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["GramSum", "gram_sum", "mean_gram"]


class GramSum(NamedTuple):
    """Running Σ w_k·F_k F_kᵀ ([m, m] float32) and Σ w_k ([] float32)."""

    total: jax.Array
    weight: jax.Array


def gram_sum(acc: GramSum | None, factors: jax.Array, weights: jax.Array) -> GramSum:
    """Adds a group's Gram matrices to a running weighted sum.

    A client's matrix comes as a factor F_k, and those of a group side by side: Σ F_k F_kᵀ is then
    one large matrix product, and no client has an [m, m] array.

    Args:
      acc: the sum so far; None: nothing.
      factors: [n, m, r] float32.
      weights: [n], 0 or more.
    """
    scaled = factors * jnp.sqrt(weights)[:, None, None]
    columns = jnp.moveaxis(scaled, 0, 1).reshape(factors.shape[1], -1)
    total = jnp.dot(columns, columns.T, precision=jax.lax.Precision.HIGHEST)
    here = GramSum(total, jnp.sum(weights))
    return here if acc is None else jax.tree.map(jnp.add, acc, here)


def mean_gram(reduced: GramSum) -> jax.Array:
    """[m, m], the weighted mean that a ``gram_sum`` amounts to."""
    return reduced.total / reduced.weight
