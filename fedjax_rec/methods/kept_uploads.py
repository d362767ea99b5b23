"""What the methods share whose server keeps every single upload of a round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.data import Problem
from fedjax_rec.methods.contract import ByClient, WeightedSum, weighted_sum

__all__ = ["everyone_has", "sum_of_values"]


def everyone_has(table: jax.Array, problem: Problem) -> ByClient:
    """The same table for every client, as a view that takes no memory until it is placed."""
    shape = (problem.num_clients, *table.shape)
    return ByClient(np.broadcast_to(np.asarray(table), shape))


def sum_of_values(
    acc: WeightedSum | None, uploads: Any, weights: jax.Array
) -> tuple[WeightedSum, None]:
    """A reduction for servers that need the uploads alone: the sum of all their numbers.

    The engine looks for numbers that are not finite in what is reduced. A sum of whole tables
    would do as well, but costs a pass more over every table.
    """

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=tuple(range(1, x.ndim)), dtype=jnp.float32)

    return weighted_sum(acc, jax.tree.map(total, uploads), weights)
