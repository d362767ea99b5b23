"""Symmetric item-by-item matrices as the upper triangle of square tiles.

Every entry of a symmetric [m, m] matrix is needed once. Cut into c·c tiles of t·t entries, the
c·(c + 1)/2 tiles on and above the diagonal hold them all, in half of the memory, and every tile is
small enough to stay in a core's cache. Tiles on the diagonal hold both halves; what lies on the
diagonal itself, and beyond item m, is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["Grid", "grid", "pack", "unpack"]

# A 640 x 640 float32 tile is 1.6 MB.
_TILE_ROWS = 640


class Grid(NamedTuple):
    """How m items are cut.

    Attributes:
      items: m.
      groups: c, groups of items.
      side: t, items a group; the last group may be short.
    """

    items: int
    groups: int
    side: int

    @property
    def places(self) -> list[tuple[int, int]]:
        """(row group, column group) of each tile, in the order in which tiles are stored."""
        return [(i, j) for i in range(self.groups) for j in range(i, self.groups)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[tiles, t, t], the shape of a packed matrix."""
        return self.groups * (self.groups + 1) // 2, self.side, self.side

    def rows(self, group: int) -> int:
        """Items of a group that exist."""
        return min(self.side, self.items - group * self.side)

    def split(self, vectors: jax.Array) -> jax.Array:
        """[m, …] -> [c, t, …], padded with zeros."""
        padding = self.groups * self.side - self.items
        padded = jnp.pad(vectors, ((0, padding), *[(0, 0)] * (vectors.ndim - 1)))
        return padded.reshape(self.groups, self.side, *vectors.shape[1:])

    def join(self, parts: jax.Array) -> jax.Array:
        """[c, t, …] -> [m, …], the inverse of ``split``."""
        return parts.reshape(-1, *parts.shape[2:])[: self.items]

    def pairs(self, i: jax.Array | int, j: jax.Array | int) -> jax.Array:
        """[t, t] bool: entries of tile (i, j) that are two different items."""
        row = i * self.side + jnp.arange(self.side)[:, None]
        column = j * self.side + jnp.arange(self.side)[None, :]
        return (row != column) & (row < self.items) & (column < self.items)

    def count_pairs(self, entries: jax.Array, i: jax.Array | int, j: jax.Array | int) -> jax.Array:
        """Pairs that so many entries of tile (i, j) are: diagonal tiles have each pair twice."""
        return entries // jnp.where(i == j, 2, 1)


def grid(items: int) -> Grid:
    """The grid for m items: as few equal groups as keep a tile in the cache.

    Raises:
      InputError: no items.
    """
    if items < 1:
        raise InputError(f"a matrix of {items} items: there must be at least 1")
    count = -(-items // _TILE_ROWS)
    side = -(-items // count)
    return Grid(items, -(-items // side), side)


def pack(matrix: jax.Array) -> jax.Array:
    """The tiles of a dense symmetric matrix.

    Args:
      matrix: [m, m], symmetric. The diagonal is dropped.

    Returns:
      [tiles, t, t] of the same dtype; see ``Grid``.

    Raises:
      InputError: a matrix that is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> pack(jnp.array([[1.0, 2.0], [2.0, 1.0]]))
      Array([[[0., 2.],
              [2., 0.]]], dtype=float32)
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a similarity matrix must be square, not {tuple(matrix.shape)}")
    cut = grid(matrix.shape[0])
    padding = cut.groups * cut.side - cut.items
    own = jnp.eye(cut.items, dtype=bool)
    whole = jnp.pad(jnp.where(own, 0, matrix), ((0, padding), (0, padding)))
    tiles = whole.reshape(cut.groups, cut.side, cut.groups, cut.side).swapaxes(1, 2)
    rows, columns = np.triu_indices(cut.groups)
    return tiles[rows, columns]


def unpack(tiles: jax.Array, items: int) -> jax.Array:
    """The dense [m, m] symmetric matrix of ``pack``, with a diagonal of zeros: for small m.

    Raises:
      InputError: tiles that are not those of m items.
    """
    cut = grid(items)
    if tiles.shape != cut.shape:
        raise InputError(f"tiles {tuple(tiles.shape)} are not those of {items} items: {cut.shape}")
    rows, columns = np.triu_indices(cut.groups)
    full = jnp.zeros((cut.groups, cut.groups, cut.side, cut.side), tiles.dtype)
    full = full.at[columns, rows].set(tiles.swapaxes(1, 2)).at[rows, columns].set(tiles)
    return full.swapaxes(1, 2).reshape(cut.groups * cut.side, -1)[:items, :items]
