"""Few orthogonal coordinates an item, in few bits each."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from fedjax_rec.errors import InputError
from fedjax_rec.server.clustering import require_finite

__all__ = ["principal_coordinates", "quantize_columns"]

# Directions whose singular value is below this share of the largest are float32's rounding.
_NULL_SPACE = 1e-5


def principal_coordinates(vectors: np.ndarray, count: int) -> np.ndarray:
    """Left singular vectors: orthonormal columns, in which one direction cannot drown the others.

    Args:
      vectors: [m, w] float, finite.
      count: d, how many.

    Returns:
      [m, d] float32, the largest singular value first, each column's largest entry positive.
      Columns of zeros where the vectors have fewer directions.

    Raises:
      InputError: a vector that is not finite.
    """
    vectors = require_finite(vectors).astype(np.float64)
    with threadpool_limits(1):
        # Of the small Gram matrix: m may be large, w is not.
        values, right = np.linalg.eigh(vectors.T @ vectors)
        order = np.argsort(-values, kind="stable")[:count]
        singular = np.sqrt(np.maximum(values[order], 0))
        used = singular > _NULL_SPACE * singular.max(initial=0)
        columns = vectors @ right[:, order] / np.where(used, singular, 1)
    columns = np.where(used, columns, 0)
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    out = np.zeros((len(vectors), count), np.float32)
    out[:, : columns.shape[1]] = columns * np.where(largest < 0, -1, 1)
    return out


def quantize_columns(vectors: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Each entry as one of 2^bits levels of its column, finer near zero.

    Entry x of a column whose largest magnitude is s becomes the level of √(|x|/s), with x's sign,
    on an even grid of [−1, 1]: coordinates of items have long tails, since few items are popular.

    Args:
      vectors: [m, d] float32.
      bits: 1 to 8.

    Returns:
      (levels [m, d] int32 from 0 to 2^bits − 1, scale [d] float32 the columns' s).

    Raises:
      InputError: bits out of range.
    """
    if not 1 <= bits <= 8:
        raise InputError(f"bits={bits} must be from 1 to 8")
    scale = np.abs(vectors).max(axis=0, initial=0)
    share = vectors / np.where(scale > 0, scale, 1)
    compressed = np.sign(share) * np.sqrt(np.abs(share))
    count = 2**bits
    levels = np.clip(np.floor((compressed + 1) / 2 * count), 0, count - 1)
    return levels.astype(np.int32), scale.astype(np.float32)
