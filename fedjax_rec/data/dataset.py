"""Interactions in memory: what every reader returns and every split takes. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset:
    """Implicit-feedback interactions, one row each, in the order of the file they came from.

    The order is part of the data: leave-one-out breaks ties between equal timestamps by it.

    Attributes:
      name: what the user called it (``"ml-100k"``) or the file's stem.
      user: [n] int32, index into ``user_ids``.
      item: [n] int32, index into ``item_ids``.
      timestamp: [n] float64 seconds, or None where the source has no times.
      user_ids: the source's own user ids, in order of first appearance. [num_users] str.
      item_ids: the source's own item ids, likewise. [num_items] str.
      item_titles: [num_items] str ("" where unknown), or None.
      item_genres: [num_items] str, each item's genres separated by ``|`` ("" where unknown), or
        None.
      split: [n] int8 (0 train, 1 validation, 2 test) where the source fixes a split, else None.
      client: [num_users] int32, the client that holds each user, where the source fixes one.
      item_cluster: [num_items] int32, the planted truth of a synthetic dataset, else None.
      notes: what the reader did that a user should know (dropped rows and why), one line each.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    item_titles: np.ndarray | None = None
    item_genres: np.ndarray | None = None
    split: np.ndarray | None = None
    client: np.ndarray | None = None
    item_cluster: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_interactions(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {self.num_users:,} users, {self.num_items:,} items, "
            f"{self.num_interactions:,} interactions)"
        )
