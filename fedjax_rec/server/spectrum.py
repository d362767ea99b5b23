"""Eigenvalues and eigenvectors of an item-by-item matrix, on the host."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from fedjax_rec.errors import InputError

__all__ = ["eigenbasis", "leading_eigenvectors"]

# Up to here all eigenvectors are computed even where a few are wanted: no iteration to trust.
_SMALL = 2048
# Eigenvalues below this share of the largest are float32's zero.
_NULL_SPACE = 1e-6


def eigenbasis(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues and eigenvectors of a symmetric matrix.

    In float64, whatever comes in: an alignment rotates every client by U and back, and float32's
    own U is orthogonal to six digits only. On one thread: the same bits on any number of cores,
    and no collapse beside other programs (at m = 1682: 1.4 s; with two threads and a busy second
    core, 6 to 18 s).

    Args:
      matrix: [m, m] float, symmetric (the lower triangle is read).

    Returns:
      (values [m] ascending, vectors [m, m], a column each), float32.

    Example:
      >>> values, vectors = eigenbasis(np.diag([3.0, 1.0]))
      >>> values
      array([1., 3.], dtype=float32)
    """
    with threadpool_limits(1):
        values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    return values.astype(np.float32), vectors.astype(np.float32)


def leading_eigenvectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """The eigenvectors of a symmetric matrix that belong to its largest eigenvalues.

    Args:
      matrix: [m, m] float, symmetric.
      count: how many, at most m.

    Returns:
      [m, count] float32, the largest first. The sign of a vector is arbitrary, but the same in
      every call. A column of zeros stands for an eigenvalue that is zero (below 10⁻⁶ of the
      largest) or negative: any vectors of that space would do, and rounding would choose them.

    Raises:
      InputError: a count that the matrix does not have.
    """
    items = len(matrix)
    if not 1 <= count <= items:
        raise InputError(f"{count} leading eigenvectors of {items} items: use 1 to {items}")
    if items <= _SMALL or count == items:
        values, vectors = eigenbasis(matrix)
        return _without_null_space(values[::-1][:count], vectors[:, ::-1][:, :count])
    from scipy.sparse.linalg import eigsh

    with threadpool_limits(1):
        # Without a starting vector, eigsh draws one from the global generator.
        values, vectors = eigsh(matrix, count, which="LA", v0=np.ones(items, matrix.dtype))
    order = np.argsort(-values, kind="stable")
    return _without_null_space(values[order], vectors[:, order].astype(np.float32))


def _without_null_space(values, vectors):
    return np.where(values > _NULL_SPACE * max(values.max(), 0), vectors, 0)
