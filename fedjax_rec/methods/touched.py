"""The rows of the item table that a client's round touches: all that it trains and keeps.

Where every client starts a round from the same table, the rows that its samples do not name stay
what they were. A client then needs a table of its own for the others only, and its memory is
O(touched · d) instead of O(m · d).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.batches import Samples

__all__ = ["Touched", "touched_rows"]


class Touched(NamedTuple):
    """The items of one client's samples, as rows of a small table.

    Attributes:
      items: [T] int32, the distinct items in ascending order; m beyond them, a row that no table
        has: gather with ``mode="clip"``, scatter with ``mode="drop"``.
      mask: [T] bool, whether there is such an item.
      samples: the samples, with ``items`` renamed to rows 0 … T − 1.
    """

    items: jax.Array
    mask: jax.Array
    samples: Samples

    def rows(self, table: jax.Array) -> jax.Array:
        """[T, …] these items' rows of a [m, …] table; rows beyond them are some row, masked."""
        return jnp.take(table, self.items, axis=0, mode="clip")


def touched_rows(samples: Samples, num_items: int) -> Touched:
    """Finds the distinct items of a round's samples.

    T, the room for them, is the number of samples or of items, whichever is smaller: a bucket's
    shape, not a client's.

    Args:
      samples: a client's samples; only the valid ones count.
      num_items: m.
    """
    room = min(num_items, samples.items.shape[0])
    # Flags and a running count over m integers instead of a sort: m is a table's rows, not its d.
    named = jnp.where(samples.valid, samples.items, num_items)
    flags = jnp.zeros(num_items, bool).at[named].set(True, mode="drop")
    row = jnp.cumsum(flags, dtype=jnp.int32) - 1
    items = jnp.full(room, num_items, jnp.int32)
    items = items.at[jnp.where(flags, row, room)].set(
        jnp.arange(num_items, dtype=jnp.int32), mode="drop"
    )
    return Touched(
        items,
        jnp.arange(room) <= row[-1],
        samples._replace(items=jnp.where(samples.valid, row[samples.items], 0)),
    )
