"""Groups of clients by what they uploaded, under names that last from round to round."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError

__all__ = ["Grouping", "align_labels", "group_clients"]

Grouping = Literal["spectral", "kmeans"]


def group_clients(
    heads: np.ndarray,
    groups: int,
    *,
    method: Grouping = "spectral",
    pca: float | None = None,
    seed: int,
) -> np.ndarray:
    """Groups clients whose parameters are alike.

    Columns are standardized, so that every parameter counts alike, whatever its scale. Spectral
    clustering works on the graph of exp(−dist²/(2·s²)), with s the median of the distances that
    are not 0; it needs n × n numbers and their eigenvectors. k-means is for more clients.

    Args:
      heads: [n, h] float, finite, one row a client.
      groups: g; with n clients or distinct rows, there are no more groups than these.
      method: "spectral" or "kmeans".
      pca: keep so many principal components as explain this share of the variance (0.95, say);
        None: keep all columns.
      seed: of the clustering's start, 0 ≤ seed < 2³².

    Returns:
      [n] int32 labels, 0 ≤ label < g.

    Raises:
      InputError: fewer than one group, an unknown method, a share out of range, or a row that is
        not finite.

    Example:
      >>> group_clients(np.array([[0.0], [0.1], [9.0], [9.1]]), 2, method="kmeans", seed=0)
      array([1, 1, 0, 0], dtype=int32)

    Reference:
      Ng, Jordan, Weiss, "On Spectral Clustering", NIPS 2001; scikit-learn's implementation.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    check_choice("method", method, ("spectral", "kmeans"))
    if groups < 1:
        raise InputError(f"groups={groups} must be at least 1")
    if pca is not None and not 0 < pca < 1:
        raise InputError(f"pca={pca} must be a share of the variance between 0 and 1")
    points = _standardized(heads)
    distinct = len(np.unique(points, axis=0))
    clusters = min(groups, distinct)
    if clusters <= 1:
        return np.zeros(len(points), np.int32)
    # One thread: sums in one order, and the same labels every time.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A client 38 medians away has an edge to nobody, and so a group of its own: as meant.
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        if pca is not None:
            points = _principal(points, pca)
        if method == "kmeans" or clusters == len(points):
            return _kmeans(points, clusters, seed)
        return _spectral(points, clusters, seed)


def align_labels(new: np.ndarray, old: np.ndarray, groups: int) -> np.ndarray:
    """Renames groups so that as many clients as can be keep the label that they had.

    A clustering names its groups at random. What the server learns of "group 3" would otherwise
    be another group's in the next round.

    Args:
      new: [n] int, labels of this round, 0 ≤ label < g.
      old: [n] int, the same clients' labels of before, -1: none.
      groups: g.

    Returns:
      [n] int32, ``new`` under a permutation of the g labels. The permutation is the one with the
      largest overlap (the Hungarian method), not a greedy one.

    Example:
      >>> align_labels(np.array([1, 1, 0]), np.array([0, 0, 2]), 3)
      array([0, 0, 2], dtype=int32)
    """
    from scipy.optimize import linear_sum_assignment

    known = old >= 0
    overlap = np.zeros((groups, groups), np.int64)
    np.add.at(overlap, (new[known], old[known]), 1)
    names = np.empty(groups, np.int32)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    names[rows] = columns
    return names[new]


def _standardized(heads):
    """Columns with mean 0 and variance 1, as float64; constant columns are 0."""
    heads = np.asarray(heads, np.float64)
    bad = ~np.isfinite(heads).all(axis=1)
    if bad.any():
        raise InputError(
            f"the head of client {int(bad.argmax())} is not finite: lower the learning rate"
        )
    centered = heads - heads.mean(axis=0)
    spread = centered.std(axis=0)
    # Below rounding a column is constant: dividing would make noise of it.
    constant = spread <= 1e-12 * np.maximum(1, np.abs(heads).max(axis=0))
    return np.where(constant, 0, centered / np.where(constant, 1, spread))


def _principal(points, share):
    from sklearn.decomposition import PCA

    return PCA(share, svd_solver="full").fit_transform(points)


def _kmeans(points, clusters, seed):
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=1, random_state=int(seed)).fit(points)
    return fitted.labels_.astype(np.int32)


def _spectral(points, clusters, seed):
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import pairwise_distances

    distances = pairwise_distances(points)
    scale = np.median(distances[distances > 0])
    affinity = np.exp(-0.5 * (distances / scale) ** 2)
    model = SpectralClustering(clusters, affinity="precomputed", random_state=int(seed))
    return model.fit_predict(affinity).astype(np.int32)
