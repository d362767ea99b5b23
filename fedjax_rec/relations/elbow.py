"""A group cut out of a ranking where its curve bends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["elbow_group"]


def elbow_group(values: jax.Array, present: jax.Array, order: jax.Array) -> jax.Array:
    """The clients with the largest values, down to the elbow of the sorted curve.

    The elbow is the point (i, v_i) of the descending curve that is farthest from its chord, the
    line from the first point to the last; the first such point. It belongs to the group.

    Args:
      values: [R] float32.
      present: [R] bool, whose values are on the curve.
      order: [R] int32, what sorts clients of equal value, such as their ids.

    Returns:
      [R] bool, the group: at least one where anybody is present.

    Example:
      >>> import jax.numpy as jnp
      >>> values = jnp.array([0.1, 9.0, 0.2, 8.9, 0.0])
      >>> elbow_group(values, jnp.ones(5, bool), jnp.arange(5)).tolist()
      [False, True, True, True, False]

    Reference:
      The cut at the largest distance to the chord is Satopää et al., "Finding a 'Kneedle' in a
      Haystack", ICDCS workshops 2011, without its smoothing.
    """
    place = jnp.arange(len(values))
    # Ascending by the last key first: those present, then by value downwards, then by order.
    row_of_rank = jnp.lexsort((order, -jnp.where(present, values, 0), ~present))
    count = jnp.sum(present)
    curve = jnp.where(present, values, 0)[row_of_rank]
    first, last = curve[0], curve[jnp.maximum(count - 1, 0)]
    # |cross product with the chord|: the distance times the chord's length.
    distance = jnp.abs((curve - first) * (count - 1) - place * (last - first))
    elbow = jnp.argmax(jnp.where(place < count, distance, -1))
    inside = (place <= elbow) & (place < count)
    return jnp.zeros(len(values), bool).at[row_of_rank].set(inside)
