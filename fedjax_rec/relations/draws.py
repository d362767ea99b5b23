"""Random choices among clients, the same whatever the order of their rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["draw_clients"]


def draw_clients(key: jax.Array, client: jax.Array, count: jax.Array | int) -> jax.Array:
    """Draws clients of a round without replacement, each with the same probability.

    A client's luck depends on the key and its id alone, so a run on other devices, whose rows lie
    in another order, draws the same clients.

    Args:
      key: PRNG key.
      client: [R] int32, as ``Uploads.client``; -1: nobody.
      count: [] int, how many; all, where there are not so many.

    Returns:
      [R] bool.
    """

    def number(id_: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, id_))

    present = client >= 0
    numbers = jnp.where(present, jax.vmap(number)(jnp.maximum(client, 0)), 2)
    by_number = jnp.lexsort((client, numbers))
    first = jnp.arange(len(client)) < count
    return present & jnp.zeros(len(client), bool).at[by_number].set(first)
