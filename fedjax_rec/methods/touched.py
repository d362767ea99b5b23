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
    count = samples.items.shape[0]
    named = jnp.where(samples.valid, samples.items, num_items)
    # By flags over all m items, or by sorting the samples: whichever is less work.
    if count * count.bit_length() < num_items:
        items, row = _by_sorting(named, num_items)
    else:
        items, row = _by_flags(named, num_items)
    return Touched(
        items,
        items < num_items,
        samples._replace(items=jnp.where(samples.valid, row, 0)),
    )


def _by_flags(named, num_items):
    """([T] distinct items, [N] row of each sample); m integers in between, whatever d is."""
    room = min(num_items, len(named))
    flags = jnp.zeros(num_items, bool).at[named].set(True, mode="drop")
    row = jnp.cumsum(flags, dtype=jnp.int32) - 1
    items = jnp.full(room, num_items, jnp.int32)
    items = items.at[jnp.where(flags, row, room)].set(
        jnp.arange(num_items, dtype=jnp.int32), mode="drop"
    )
    return items, row[jnp.minimum(named, num_items - 1)]


def _by_sorting(named, num_items):
    """The same; its cost does not depend on m."""
    ordered, place = _sorted_places(named, num_items)
    differs = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    row_in_order = jnp.cumsum(differs, dtype=jnp.int32) - 1
    items = jnp.full(len(named), num_items, jnp.int32).at[row_in_order].set(ordered)
    return items, jnp.zeros(len(named), jnp.int32).at[place].set(row_in_order)


def _sorted_places(named, num_items):
    """([N] names in ascending order, [N] where each stood). One packed integer a sample sorts
    several times faster than a pair does."""
    place = jnp.arange(len(named), dtype=jnp.uint32)
    bits = max(len(named) - 1, 1).bit_length()
    if num_items >= 1 << (32 - bits):
        return jax.lax.sort((named, place.astype(jnp.int32)), num_keys=1)
    packed = jnp.sort((named.astype(jnp.uint32) << bits) | place)
    return (packed >> bits).astype(jnp.int32), (packed & ((1 << bits) - 1)).astype(jnp.int32)
