"""Who is trained on what: leave-one-out by time, and the 72/8/20 ratio split.

A split is [n] int8, one entry an interaction: 0 train, 1 validation, 2 test, -1 dropped.
"""

from __future__ import annotations

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["DROPPED", "TEST", "TRAIN", "VALIDATION", "leave_one_out", "ratio"]

TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, -1
_MIN_INTERACTIONS = 3  # One each for training, validation and test.


def leave_one_out(dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Holds out each user's last interaction for the test and the second last for validation.

    Among equal timestamps the EARLIER row of the file counts as the later event. That is what
    the reference implementations' ``rank(method="first", ascending=False)`` does, and it decides
    the test item of 415 of the 943 users of MovieLens-100K.

    Args:
      dataset: with timestamps.

    Returns:
      The split, and notes: users with fewer than 3 interactions are dropped, and counted there.

    Raises:
      InputError: no timestamps, or nobody has 3 interactions.
    """
    if dataset.timestamp is None:
        raise InputError(
            f"{dataset.name}: no timestamps, and leave-one-out holds out the last interaction; "
            "use --split ratio, or name the column of times with timestamp="
        )
    keep, notes = _large_enough(dataset)
    # Latest first within each user; lexsort is stable, so among equals the earlier row leads.
    order = np.lexsort((-dataset.timestamp, dataset.user))
    place = np.empty(dataset.num_interactions, np.int64)
    place[order] = _places(dataset.user[order], dataset.num_users)
    split = np.select([place == 0, place == 1], [TEST, VALIDATION], TRAIN).astype(np.int8)
    split[~keep[dataset.user]] = DROPPED
    return split, notes


def ratio(dataset: Dataset, seed: int = 0) -> tuple[np.ndarray, tuple[str, ...]]:
    """Holds out 20 % of each user's interactions for the test and 10 % of the rest (8 %).

    Each user's interactions are shuffled; of n, round(n / 5) are test and round(n' / 10) of the
    n' others validation, but one each at least (halves round up), so that every user can be
    trained and scored. Where the dataset brings its own split, that one is taken as it is.

    Args:
      dataset: any dataset; times play no part.
      seed: of the shuffle (`Purpose.SPLIT`); unused where the dataset has its own split.

    Returns:
      The split, and notes. Dropped, and counted there: users with fewer than 3 interactions, or,
      under the dataset's own split, users without any training interaction.

    Raises:
      InputError: nobody is left.
    """
    if dataset.split is not None:
        return _own(dataset, dataset.split)
    keep, notes = _large_enough(dataset)
    shuffle = host_rng(seed, 0, Purpose.SPLIT).random(dataset.num_interactions)
    order = np.lexsort((shuffle, dataset.user))
    place = np.empty(dataset.num_interactions, np.int64)
    place[order] = _places(dataset.user[order], dataset.num_users)
    count = np.bincount(dataset.user, minlength=dataset.num_users)
    test = np.maximum(1, (2 * count + 5) // 10)
    validation = np.maximum(1, (count - test + 5) // 10)
    edges = (place < test[dataset.user], place < (test + validation)[dataset.user])
    split = np.select(edges, [TEST, VALIDATION], TRAIN).astype(np.int8)
    split[~keep[dataset.user]] = DROPPED
    return split, notes


def _own(dataset: Dataset, own: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    trained = np.bincount(dataset.user[own == TRAIN], minlength=dataset.num_users) > 0
    if not trained.any():
        raise InputError(
            f"{dataset.name}: its own split trains on nothing; mark training rows with {TRAIN}"
        )
    split = np.where(trained[dataset.user], own, DROPPED).astype(np.int8)
    lost = int((~trained).sum())
    if not lost:
        return split, ()
    return split, (f"{lost:,} users without a training interaction in the given split dropped",)


def _large_enough(dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """[num_users] bool, who can be split, and a note on the others."""
    keep = np.bincount(dataset.user, minlength=dataset.num_users) >= _MIN_INTERACTIONS
    lost = int((~keep).sum())
    if not keep.any():
        raise InputError(
            f"{dataset.name}: every user has fewer than {_MIN_INTERACTIONS} interactions, and a "
            "split needs one each for training, validation and test; give more data"
        )
    if not lost:
        return keep, ()
    return keep, (f"{lost:,} users with fewer than {_MIN_INTERACTIONS} interactions dropped",)


def _places(sorted_user: np.ndarray, num_users: int) -> np.ndarray:
    """Each row's place within its user, from 0, for rows in order of user."""
    count = np.bincount(sorted_user, minlength=num_users)
    return np.arange(len(sorted_user)) - np.repeat(np.cumsum(count) - count, count)
