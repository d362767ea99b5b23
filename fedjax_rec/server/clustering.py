"""k-means on the host."""

from __future__ import annotations

import warnings

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["kmeans"]


def kmeans(vectors: np.ndarray, clusters: int, *, seed: int) -> np.ndarray:
    """Groups vectors by k-means (k-means++ start, Lloyd's iterations).

    One thread, so that sums run in one order and the labels are the same on every machine of a
    kind. Where the vectors have fewer distinct values than ``clusters``, some clusters stay empty.

    Args:
      vectors: [m, d] float, finite.
      clusters: C, from 1 to m.
      seed: of the start, 0 ≤ seed < 2³².

    Returns:
      [m] int32 labels, 0 ≤ label < C.

    Raises:
      InputError: clusters out of range, or a vector that is not finite.

    Example:
      >>> kmeans(np.array([[0.0, 0.0], [0.0, 0.1], [9.0, 9.0]]), 2, seed=0)
      array([0, 0, 1], dtype=int32)

    Reference:
      Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007; the
      implementation is scikit-learn's.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    vectors = require_finite(vectors)
    if not 1 <= clusters <= len(vectors):
        raise InputError(f"clusters={clusters} must be from 1 to the {len(vectors)} items")
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters: documented above, not worth a warning a round.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(clusters, n_init=1, random_state=int(seed)).fit(vectors)
    return fitted.labels_.astype(np.int32)


def require_finite(vectors: np.ndarray) -> np.ndarray:
    """The vectors as an array; raises InputError that names the first row that is not finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2:
        raise InputError(f"vectors must be [items, dim], not of shape {vectors.shape}")
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise InputError(
            f"item {int(bad.argmax())} has an embedding that is not finite: lower the learning rate"
        )
    return vectors
