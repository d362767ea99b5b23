"""A dataset made ready for a federation: split, grouped into clients, protocol chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedjax_rec.data.dataset import Dataset

__all__ = ["Problem", "Protocol", "Ragged", "SplitName"]

Protocol = Literal["leak-free", "published"]
SplitName = Literal["loo", "ratio"]


@dataclass(frozen=True)
class Ragged:
    """One variable-length list of ints a user, stored end to end (CSR).

    ``values[starts[u]:starts[u + 1]]`` is user u's list, in ascending order.
    ``starts`` is [users + 1] int64, ``values`` is int32.
    """

    starts: np.ndarray
    values: np.ndarray

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[users] int64, the length of each list."""
        return np.diff(self.starts)

    def padded(self) -> np.ndarray:
        """[users, longest] int32: the lists as rows, -1 beyond the end of each."""
        lengths = self.lengths[:, None]
        column = np.arange(lengths.max(initial=0))
        out = np.full((len(self), len(column)), -1, np.int32)
        out[column < lengths] = self.values
        return out


@dataclass(frozen=True)
class Problem:
    """What a method is given: who holds which training items, and what is held out.

    Users are renumbered so that a client's users are neighbours: client k holds users
    ``client_starts[k] .. client_starts[k + 1] - 1``. Users that the split had to drop are gone
    (and named in ``notes``); items keep the dataset's numbering, seen or not.

    Attributes:
      dataset: where it came from (ids, titles, planted clusters).
      split: "loo" or "ratio".
      protocol: "leak-free": training negatives come from all items outside the user's training
        items. "published": from items outside the user's whole history, held-out items included,
        as the reference implementations of PFedRec, CoFedRec and CGFedRec do.
      user_index: [num_users] int64, each user's index in ``dataset.user_ids``.
      client_starts: [num_clients + 1] int64.
      train, validation, test: item lists a user.
      evaluation_negatives: under "loo", the uni99 candidates: two [num_users, 99] int32 arrays
        (validation, test), distinct items that the user never interacted with, padded with -1
        where fewer exist; None under "ratio".
      notes: one line for each thing a user should know (dropped users, short candidate lists).
    """

    dataset: Dataset
    split: SplitName
    protocol: Protocol
    user_index: np.ndarray
    client_starts: np.ndarray
    train: Ragged
    validation: Ragged
    test: Ragged
    evaluation_negatives: tuple[np.ndarray, np.ndarray] | None
    notes: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        return len(self.user_index)

    @property
    def num_items(self) -> int:
        return self.dataset.num_items

    @property
    def num_clients(self) -> int:
        return len(self.client_starts) - 1

    @property
    def users_per_client(self) -> np.ndarray:
        """[num_clients] int64."""
        return np.diff(self.client_starts)

    def __repr__(self) -> str:
        return (
            f"Problem({self.dataset.name!r}, {self.split}, {self.protocol}: "
            f"{self.num_clients:,} clients, {self.num_users:,} users, {self.num_items:,} items)"
        )
