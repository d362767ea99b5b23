"""All clients' item tables compared with each other, and mixed: streamed block of items by block.

With K clients the tables are one array [R, m, d], gigabytes of it and sharded by clients. Both
operations are sums or maps over items. So a block of items of all clients is worked on at a time:
it is all that is copied, and all that devices send each other. Blocks of clients would need every
client's whole table at every device, one block of clients after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["BLOCK_BYTES", "Mixed", "add_blocks", "cosine_similarities", "mix_tables"]

T = TypeVar("T")

BLOCK_BYTES = 32 << 20  # of one block of items of all clients: large enough for fast products
_PANELS = 4  # of rows: more would save little, and make smaller, slower products


class Mixed(NamedTuple):
    """Tables after ``mix_tables``.

    Attributes:
      tables: [R, m, d] float32.
      mean: [m, d] float32, of those who are present; zeros where nobody is.
    """

    tables: jax.Array
    mean: jax.Array


def cosine_similarities(
    tables: jax.Array, present: jax.Array, *, block_bytes: int = BLOCK_BYTES
) -> jax.Array:
    """Cosine of the angle between every two clients' tables, each read as one long vector.

    Half of the products are enough, as cos(a, b) = cos(b, a). They are taken for panels of rows,
    each with itself and those after it: 2·R²·m·d operations become 5/8 of that with four panels.
    Temporaries are [R, R] and a few blocks of items.

    Args:
      tables: [R, m, d] float32.
      present: [R] bool.
      block_bytes: most bytes of a block.

    Returns:
      [R, R] float32, symmetric to the bit; 0 for rows and columns of nobody, and of a table of
      zeros.
    """
    rows = len(tables)
    size = -(-rows // _PANELS)
    starts = range(0, rows, size)

    def add(panels: list[jax.Array], block: jax.Array, items: jax.Array) -> list[jax.Array]:
        flat = block.reshape(rows, -1)
        return [
            # Not `@` and `.T`: with clients on several devices, XLA would write the transpose out.
            panel
            + jax.lax.dot_general(
                *(flat[start : start + size], flat[start:]),
                (((1,), (1,)), ((), ())),
                precision=jax.lax.Precision.HIGHEST,
            )
            for start, panel in zip(starts, panels, strict=True)
        ]

    # One array a panel: in parts of one [R, R] array, devices would send each other all of it.
    nothing = [jnp.zeros((min(size, rows - start), rows - start)) for start in starts]
    panels = add_blocks(add, nothing, tables, present, block_bytes=block_bytes)
    padded = [jnp.pad(x, ((0, 0), (start, 0))) for start, x in zip(starts, panels, strict=True)]
    half = jnp.concatenate(padded)
    products = jnp.triu(half) + jnp.triu(half, k=1).T
    norms = jnp.sqrt(jnp.diagonal(products))
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    return products * (inverse[:, None] * inverse[None, :])


def mix_tables(
    weights: jax.Array,
    tables: jax.Array,
    present: jax.Array,
    old: jax.Array,
    *,
    times: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> Mixed:
    """Every present client's weighted sum of all clients' tables; the others keep their old one.

    Items do not meet each other, so a block of them passes all ``times`` before the next one.
    Beside the result the temporaries are a few blocks.

    Args:
      weights: [R, R] float32, row k those of client k; 0 in columns of nobody.
      tables: [R, m, d] float32.
      present: [R] bool.
      old: [R, m, d] float32, what rows of nobody keep.
      times: how often the weights are applied, 1 or more.
      block_bytes: most bytes of a block.
    """
    rows, items, _ = tables.shape
    size = _block_items(tables.shape, block_bytes)
    count = jnp.maximum(jnp.sum(present), 1)

    def one(index: jax.Array, mixed: Mixed) -> Mixed:
        start, block, _ = _block(tables, present, index, size)
        flat = block.reshape(rows, -1)
        for _ in range(times):
            flat = jnp.matmul(weights, flat, precision=jax.lax.Precision.HIGHEST)
        new = jnp.where(present[:, None, None], flat.reshape(block.shape), 0)
        mean = jnp.sum(new, axis=0) / count
        kept = jax.lax.dynamic_slice_in_dim(mixed.tables, start, size, axis=1)
        new = jnp.where(present[:, None, None], new, kept)
        return Mixed(
            jax.lax.dynamic_update_slice_in_dim(mixed.tables, new, start, axis=1),
            jax.lax.dynamic_update_slice_in_dim(mixed.mean, mean, start, axis=0),
        )

    # A last block that reaches back over items of the one before gives them the same values again.
    blocks = -(-items // size)
    first = Mixed(old, jnp.zeros(tables.shape[1:]))
    return jax.lax.fori_loop(0, blocks, one, first)


def add_blocks(
    add: Callable[[T, jax.Array, jax.Array], T],
    total: T,
    tables: jax.Array,
    present: jax.Array,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> T:
    """Passes all clients' tables through ``add``, block of items by block.

    Args:
      add: (total, [R, c, d] block, [c] int32 its items) -> total, a sum over items. Rows of nobody
        are zeros. So are those of items that a block before had: the last block may reach back.
      total: what it starts from.
      tables: [R, m, d] float32.
      present: [R] bool.
      block_bytes: most bytes of a block.
    """
    size = _block_items(tables.shape, block_bytes)

    def one(index: jax.Array, total: T) -> T:
        start, block, fresh = _block(tables, present, index, size)
        return add(total, jnp.where(fresh[None, :, None], block, 0), start + jnp.arange(size))

    return jax.lax.fori_loop(0, -(-tables.shape[1] // size), one, total)


def _block_items(shape, block_bytes):
    """Items of a block; blocks are even, for a short last one would be worked on in full."""
    rows, items, dim = shape
    most = max(1, min(items, block_bytes // (4 * rows * dim)))
    return -(-items // -(-items // most))


def _block(tables, present, index, size):
    """(its first item, [R, size, d] the block, [size] bool whether no earlier block had it)."""
    wanted = index * size
    start = jnp.minimum(wanted, tables.shape[1] - size)
    block = jax.lax.dynamic_slice_in_dim(tables, start, size, axis=1)
    # What is nobody's may be anything, NaN as well: no weight of 0 would keep that out.
    block = jnp.where(present[:, None, None], block, 0)
    return start, block, start + jnp.arange(size) >= wanted
