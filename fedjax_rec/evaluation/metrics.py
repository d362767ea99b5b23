"""Ranking metrics from ranks, one value a user."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedjax_rec.errors import InputError

__all__ = ["f1", "hit_ratio", "mean", "mrr", "ndcg", "precision", "recall"]


def hit_ratio(ranks: ArrayLike, k: int) -> np.ndarray:
    """HR@k = 1 if any held-out item ranks among the first k, else 0.

    With one held-out item a user this equals Recall@k.

    Args:
      ranks: int, [users] or [users, held_out]; 0 is the top; negative is padding.
      k: length of the list.

    Returns:
      [users] float64; NaN for a user with no held-out item.

    Raises:
      InputError: k < 1.

    Example:
      >>> hit_ratio([[0, 12], [10, -1]], 10)
      array([1., 0.])
    """
    hits, counts = _hits(ranks, k)
    return _where_any(counts, hits.any(axis=1))


def recall(ranks: ArrayLike, k: int) -> np.ndarray:
    """Recall@k = (held-out items among the first k) / (held-out items).

    Arguments, result and errors as ``hit_ratio``.

    Example:
      >>> recall([[0, 12], [3, -1]], 10)
      array([0.5, 1. ])
    """
    hits, counts = _hits(ranks, k)
    return _where_any(counts, hits.sum(axis=1) / np.maximum(counts, 1))


def precision(ranks: ArrayLike, k: int) -> np.ndarray:
    """Precision@k = (held-out items among the first k) / k.

    Arguments, result and errors as ``hit_ratio``.

    Example:
      >>> precision([[0, 12], [3, -1]], 10)
      array([0.1, 0.1])
    """
    hits, counts = _hits(ranks, k)
    return _where_any(counts, hits.sum(axis=1) / k)


def f1(ranks: ArrayLike, k: int) -> np.ndarray:
    """F1@k of each user: the harmonic mean of its Precision@k and Recall@k, 0 without a hit.

    With h hits among the first k and t held-out items it is 2h / (k + t). Arguments, result and
    errors as ``hit_ratio``.

    Example:
      >>> f1([[0, 12], [3, -1]], 10).round(3)
      array([0.167, 0.182])
    """
    hits, counts = _hits(ranks, k)
    return _where_any(counts, 2 * hits.sum(axis=1) / (k + counts))


def ndcg(ranks: ArrayLike, k: int) -> np.ndarray:
    """NDCG@k = Σ_{hits} 1/log₂(rank + 2) / Σ_{j < min(k, |test|)} 1/log₂(j + 2).

    The ideal list has all held-out items on top. Arguments, result and errors as ``hit_ratio``.

    Example:
      >>> ndcg([[0], [1]], 10).round(3)
      array([1.   , 0.631])

    Reference:
      Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """
    hits, counts = _hits(ranks, k)
    gains = np.where(hits, 1 / np.log2(np.maximum(_rows(ranks), 0) + 2), 0).sum(axis=1)
    ideal = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    return _where_any(counts, gains / np.maximum(ideal[np.minimum(counts, k)], 1))


def mrr(ranks: ArrayLike, k: int) -> np.ndarray:
    """MRR@k = 1/(rank + 1) of the first held-out item if it is among the first k, else 0.

    Arguments, result and errors as ``hit_ratio``.

    Example:
      >>> mrr([[4, 1], [11, -1]], 10)
      array([0.5, 0. ])
    """
    hits, counts = _hits(ranks, k)
    reciprocal = np.where(hits, 1 / (np.maximum(_rows(ranks), 0) + 1.0), 0)
    return _where_any(counts, reciprocal.max(axis=1, initial=0))


def mean(values: np.ndarray) -> float:
    """Mean over users with at least one held-out item; NaN when there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _rows(ranks):
    ranks = np.asarray(ranks)
    return ranks[:, None] if ranks.ndim == 1 else ranks


def _hits(ranks, k):
    if k < 1:
        raise InputError(f"k={k} must be at least 1")
    rows = _rows(ranks)
    valid = rows >= 0
    return valid & (rows < k), valid.sum(axis=1)


def _where_any(counts, values):
    return np.where(counts > 0, values, np.nan).astype(np.float64)
