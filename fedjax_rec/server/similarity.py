"""The sparse graph of similar items, from their embeddings or from a packed similarity matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.server.clustering import require_finite
from fedjax_rec.tiles import grid

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["cosine_similarity_graph", "similarity_graph"]

_BLOCK_ENTRIES = 4_000_000


def cosine_similarity_graph(vectors: np.ndarray, *, threshold: float) -> csr_array:
    """Cosine similarities of at least ``threshold``, as a sparse upper triangle.

    Computed in float32 row blocks: no [m, m] array exists. A zero vector is similar to nothing.

    Args:
      vectors: [m, d] float, finite.
      threshold: smallest similarity kept, above 0 and at most 1.

    Returns:
      [m, m] scipy.sparse.csr_array, float32, entries (i, j) with i < j.

    Example:
      >>> import numpy as np
      >>> cosine_similarity_graph(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), threshold=0.5).nnz
      1

    Raises:
      InputError: a threshold out of range, or a vector that is not finite.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold} must be above 0 and at most 1")
    vectors = require_finite(vectors).astype(np.float64)
    # Norms in float64: in float32 the squares of a tiny row vanish, and it would pass for zero.
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norm > 0, norm, 1)).astype(np.float32)

    m = len(unit)
    block = max(1, _BLOCK_ENTRIES // max(m, 1))
    return _upper_triangle(
        m,
        threshold,
        (
            (start, start, unit[start : start + block] @ unit[start:].T)
            for start in range(0, m, block)
        ),
    )


def similarity_graph(tiles: np.ndarray, items: int, *, threshold: float) -> csr_array:
    """Entries of at least ``threshold`` of a packed similarity matrix, as a sparse upper triangle.

    Args:
      tiles: [tiles, t, t], any float dtype (``fedjax_rec.tiles``).
      items: m.
      threshold: smallest similarity kept, above 0.

    Returns:
      [m, m] scipy.sparse.csr_array, float32, entries (i, j) with i < j.

    Raises:
      InputError: tiles that are not those of m items, or a threshold that is not positive.
    """
    if not threshold > 0:
        raise InputError(f"threshold={threshold} must be above 0")
    cut = grid(items)
    if tiles.shape != cut.shape:
        raise InputError(f"tiles {tiles.shape} are not those of {items} items: {cut.shape}")
    return _upper_triangle(
        items,
        threshold,
        (
            (i * cut.side, j * cut.side, np.asarray(tile, np.float32))
            for (i, j), tile in zip(cut.places, tiles, strict=True)
        ),
    )


def _upper_triangle(items, threshold, blocks) -> csr_array:
    """The entries above the diagonal of (first row, first column, values) blocks, as one matrix."""
    from scipy.sparse import csr_array

    # 32-bit indices: scipy keeps them, and they are most of a large graph's memory.
    rows, columns, values = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], []
    for row, column, block in blocks:
        # A diagonal block holds both halves; elsewhere all of it lies above the diagonal.
        i, j = np.nonzero(np.triu(block >= threshold, k=1 + row - column))
        rows.append((i + row).astype(np.int32))
        columns.append((j + column).astype(np.int32))
        values.append(block[i, j])
    entries = np.concatenate(values or [np.zeros(0, np.float32)])
    return csr_array((entries, (np.concatenate(rows), np.concatenate(columns))), (items, items))
