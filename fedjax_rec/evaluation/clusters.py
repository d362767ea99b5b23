"""How well recovered clusters agree with planted ones."""

from __future__ import annotations

from numpy.typing import ArrayLike

__all__ = ["nmi"]


def nmi(labels: ArrayLike, truth: ArrayLike) -> float:
    """Normalized mutual information of two labellings: 1 for the same partition, 0 for unrelated.

    Normalized by the arithmetic mean of the entropies, as scikit-learn, which computes it.

    Args:
      labels: [m] int.
      truth: [m] int.

    Example:
      >>> nmi([0, 0, 1, 1], [1, 1, 0, 0])
      1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(truth, labels))
