"""NDCG and MRR as FedCIA's released evaluation has them: only for comparison with its tables.

That code turns a user's top-k list into a Python ``set`` before it ranks it. A set has no order of
its own: CPython walks its hash table, and an int hashes to itself, so an item's "rank" depends on
its id modulo the size of the table, not on its score. NDCG is then normalized by an ideal list of
the hits found, not of the held-out items. The tables of FedCIA and RQFedRec are made so;
``metrics`` has the standard definitions, which everything else reports. METRICS.md, beside this
file, works both out for one user by hand.

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

Ids are what the release has: the item's index in its split, from 0. Datasets keep the numbering of
an ``.npz`` split, so there the simulator's own indices are those; of any other source they count
the items in order of first appearance, and another numbering gives other figures.

Reference:
  Han et al., "FedCIA: Federated Collaborative Information Aggregation for Privacy-Preserving
  Recommendation", SIGIR 2025, and its released code (``utils/metric.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedjax_rec.errors import InputError

__all__ = ["mrr_published", "ndcg_published"]


def ndcg_published(top_k: ArrayLike, held_out: ArrayLike) -> np.ndarray:
    """NDCG over set order: Σ_{hits} 1/log₂(p + 2) / Σ_{j < #hits} 1/log₂(j + 2).

    p is the item's place, from 0, in CPython's iteration over the set of the top-k items. A user
    without a hit gets 0.

    Args:
      top_k: int item indices, [users, k], the best first. (The order matters a little even here: of
        two that want one slot, the one put in first has it.) Negative is padding.
      held_out: int item indices, [users, held_out]; negative is padding.

    Returns:
      [users] float64; NaN for a user with no held-out item.

    Raises:
      InputError: arrays that are not two-dimensional, or not of as many users.
    """
    hits, known = _hits(top_k, held_out)
    discounts = 1 / np.log2(np.arange(hits.shape[1]) + 2)
    ideal = np.concatenate([[1], np.cumsum(discounts)])  # 1: no hit, whose gain is 0
    return np.where(known, hits @ discounts / ideal[hits.sum(axis=1)], np.nan)


def mrr_published(top_k: ArrayLike, held_out: ArrayLike) -> np.ndarray:
    """MRR over set order: 1/(p + 1) of the hit that the set's iteration meets first, else 0.

    Arguments, result and errors as ``ndcg_published``.
    """
    hits, known = _hits(top_k, held_out)
    reciprocal = hits / (np.arange(hits.shape[1]) + 1)
    return np.where(known, reciprocal.max(axis=1, initial=0), np.nan)


def _hits(top_k, held_out) -> tuple[np.ndarray, np.ndarray]:
    """[users, k] bool, whether the item at each place of the set is held out; and [users] bool,
    whether anything is."""
    top_k, held_out = np.asarray(top_k), np.asarray(held_out)
    if top_k.ndim != 2 or held_out.ndim != 2 or len(top_k) != len(held_out):
        raise InputError(
            "published metrics take [users, k] top items and [users, held_out] items, "
            f"not shapes {top_k.shape} and {held_out.shape}"
        )
    places = top_k.shape[1]
    walked = np.empty(top_k.shape, np.int64)
    for user, recommended in enumerate(top_k.tolist()):
        # From a list, as the release: growing a table while it fills is part of the order.
        listed = list(set([item for item in recommended if item >= 0]))  # noqa: C403
        walked[user] = listed + [-1] * (places - len(listed))
    hits = np.zeros(walked.shape, bool)
    # Held-out item by held-out item: sorting them, as np.isin does, takes ten times longer.
    for column in np.ascontiguousarray(held_out.T, walked.dtype):
        hits |= walked == column[:, None]
    return hits & (walked >= 0), (held_out >= 0).any(axis=1)
