"""NDCG and MRR as FedCIA's released evaluation has them: only for comparison with its tables.

That code turns a user's top-k list into a Python ``set`` before it ranks it. A set has no order of
its own: CPython walks its hash table, and an int hashes to itself, so an item's "rank" depends on
its id modulo the size of the table, not on its score. NDCG is then normalized by an ideal list of
the hits found, not of the held-out items. The tables of FedCIA and RQFedRec are made so;
``metrics`` has the standard definitions, which everything else reports.

Example: item 7 is recommended first, then 2 and 1, and it is the one held out. Both standard
metrics are 1. But CPython keeps three ints in a table of 8 slots and walks 1, 2, 7: a hit at the
third "rank".

>>> list(set([7, 2, 1]))
[1, 2, 7]
>>> mrr_published([[7, 2, 1]], [[7]]).round(3)
array([0.333])
>>> ndcg_published([[7, 2, 1]], [[7]])
array([0.5])

And the other way round: item 8 wants slot 0, so the worst of three is promoted to the first.

>>> mrr_published([[1, 2, 8]], [[8]])
array([1.])

Reference:
  Han et al., "FedCIA: Federated Collaborative Information Aggregation for Privacy-Preserving
  Recommendation", SIGIR 2025, and its released code (``utils/metric.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from fedjax_rec.errors import InputError

__all__ = ["mrr_published", "ndcg_published"]


def ndcg_published(top_k: ArrayLike, held_out: ArrayLike) -> np.ndarray:
    """NDCG over set order: Σ_{hits} 1/log₂(p + 2) / Σ_{j < #hits} 1/log₂(j + 2).

    p is the item's place, from 0, in CPython's iteration over the set of the top-k items. A user
    without a hit gets 0.

    Args:
      top_k: int item ids, [users, k], the best first. (The order matters a little even here: of
        two ids that want one slot, the one put in first has it.) Negative is padding.
      held_out: int item ids, [users, held_out]; negative is padding.

    Returns:
      [users] float64; NaN for a user with no held-out item.

    Raises:
      InputError: arrays that are not two-dimensional, or not of as many users.
    """
    return np.array([_ndcg(places) for places in _places(top_k, held_out)], np.float64)


def mrr_published(top_k: ArrayLike, held_out: ArrayLike) -> np.ndarray:
    """MRR over set order: 1/(p + 1) of the hit that the set's iteration meets first, else 0.

    Arguments, result and errors as ``ndcg_published``.
    """
    return np.array([_mrr(places) for places in _places(top_k, held_out)], np.float64)


def _ndcg(places):
    if places is None:
        return np.nan
    gain = (1 / np.log2(places + 2)).sum()
    ideal = (1 / np.log2(np.arange(len(places)) + 2)).sum()
    return gain / ideal if len(places) else 0.0


def _mrr(places):
    if places is None:
        return np.nan
    return 1 / (places[0] + 1) if len(places) else 0.0


def _places(top_k, held_out) -> Iterator[np.ndarray | None]:
    """Each user's places of hits in set order, ascending; None without a held-out item."""
    top_k, held_out = np.asarray(top_k), np.asarray(held_out)
    if top_k.ndim != 2 or held_out.ndim != 2 or len(top_k) != len(held_out):
        raise InputError(
            "published metrics take [users, k] top items and [users, held_out] items, "
            f"not shapes {top_k.shape} and {held_out.shape}"
        )
    for recommended, wanted in zip(top_k, held_out, strict=True):
        truth = {item for item in wanted.tolist() if item >= 0}
        # From a list, as the release: growing a table while it fills is part of the order.
        listed = set([item for item in recommended.tolist() if item >= 0])  # noqa: C403
        hits = [place for place, item in enumerate(listed) if item in truth]
        yield np.array(hits, np.int64) if truth else None
