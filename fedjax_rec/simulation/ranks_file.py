"""``ranks.npz``: where every held-out item ranked at the best round, user by user.

From it follow each user's metrics, and those of any group of users or items, with neither the data
nor the model at hand. It holds

==================  =================  ===========================================================
round               [] int64           the best round by validation
user_id             [users] str        the dataset's own ids
train_items         [users] int32      items that the user trains on
item_id             [m] str            the dataset's own ids
item_users          [m] int32          users who train on the item: its popularity
val_items           [users, V] int32   held-out items, as indices into ``item_id``; -1 is padding
test_items          [users, T] int32   likewise
val_uni99           [users, V] int32   their zero-based ranks among 99 sampled items (``loo`` only)
test_uni99          [users, T] int32   likewise
val_full            [users, V] int32   their zero-based ranks among all items
test_full           [users, T] int32   likewise
val_top, test_top   [users, 10] int32  the best items, best first; -1 is padding (``ratio`` only)
==================  =================  ===========================================================

Ranks of padding are -1. `fedjax_rec.evaluation` takes them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedjax_rec.data import Problem

__all__ = ["RANKS_FILE", "rank_arrays"]

RANKS_FILE = "ranks.npz"
_SPLITS = {"val": "validation", "test": "test"}
_RANKINGS = {"sampled": "uni99", "full": "full"}


def rank_arrays(
    problem: Problem, round_: int, ranks: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The content of ``ranks.npz``.

    Args:
      problem: what was trained on.
      round_: the best round.
      ranks: its ranks by user, as `Engine.evaluate` gives them.
    """
    dataset = problem.dataset
    arrays = {
        "round": np.int64(round_),
        "user_id": np.asarray(dataset.user_ids, str)[problem.user_index],
        "train_items": problem.train.lengths.astype(np.int32),
        "item_id": np.asarray(dataset.item_ids, str),
        "item_users": np.bincount(problem.train.values, minlength=problem.num_items),
    }
    arrays["item_users"] = arrays["item_users"].astype(np.int32)
    for short, split in _SPLITS.items():
        items = getattr(problem, split).padded()
        arrays[f"{short}_items"] = items
        for ranking, name in _RANKINGS.items():
            if f"{split}_{ranking}" in ranks:
                # The devices' rows are padded further.
                arrays[f"{short}_{name}"] = ranks[f"{split}_{ranking}"][:, : items.shape[1]]
        if f"{split}_top" in ranks:
            arrays[f"{short}_top"] = ranks[f"{split}_top"]
    return arrays
