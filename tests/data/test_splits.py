"""Splits: each kept user has one of everything, nothing held out is trained on, ties are ruled."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_rec.data import Dataset, leave_one_out, load_dataset, ratio
from fedjax_rec.data.splits import DROPPED, TEST, TRAIN, VALIDATION
from fedjax_rec.errors import InputError


def make(
    user: list[int], timestamp: list[float] | None = None, split: list[int] | None = None
) -> Dataset:
    """Each user's items are 0, 1, 2 … in the order of the rows."""
    users = np.array(user, np.int32)
    seen: dict[int, int] = {}
    item = []
    for u in user:
        item.append(seen.get(u, 0))
        seen[u] = item[-1] + 1
    return Dataset(
        name="made",
        user=users,
        item=np.array(item, np.int32),
        timestamp=None if timestamp is None else np.array(timestamp, np.float64),
        user_ids=np.arange(users.max() + 1).astype(str),
        item_ids=np.arange(max(item) + 1).astype(str),
        split=None if split is None else np.array(split, np.int8),
    )


def test_leave_one_out_by_hand() -> None:
    # User 0: a tie at the last time, so the earlier row (1) is the later event.
    # User 1: too small. User 2: all three at once.
    dataset = make([0, 0, 1, 0, 2, 2, 1, 2, 0], [5, 9, 1, 9, 3, 3, 2, 3, 7])
    split, notes = leave_one_out(dataset)
    assert split.dtype == np.int8
    assert split.tolist() == [0, TEST, DROPPED, VALIDATION, TEST, VALIDATION, DROPPED, 0, 0]
    assert notes == ("1 users with fewer than 3 interactions dropped",)


histories = hnp.arrays(np.int64, st.integers(3, 60), elements=st.integers(0, 6))


@given(histories, st.integers(1, 5), st.randoms(use_true_random=False))
def test_leave_one_out_is_the_reference_rule(users: np.ndarray, times: int, random) -> None:
    times_of_rows = [float(random.randrange(times)) for _ in users]
    dataset = make(users.tolist(), times_of_rows)
    if np.bincount(users).max() < 3:
        with pytest.raises(InputError, match="fewer than 3"):
            leave_one_out(dataset)
        return
    split, _ = leave_one_out(dataset)
    frame = pd.DataFrame({"user": users, "time": times_of_rows})
    rank = frame.groupby("user")["time"].rank(method="first", ascending=False)
    large = frame.groupby("user")["time"].transform("size") >= 3
    expected = rank.map({1.0: TEST, 2.0: VALIDATION}).fillna(TRAIN).where(large, DROPPED)
    assert split.tolist() == expected.tolist()


@given(histories, st.integers(0, 5))
def test_ratio_keeps_its_shares(users: np.ndarray, seed: int) -> None:
    dataset = make(users.tolist())
    if np.bincount(users).max() < 3:
        with pytest.raises(InputError, match="fewer than 3"):
            ratio(dataset, seed)
        return
    split, _ = ratio(dataset, seed)
    for user in np.unique(users):
        own = split[users == user]
        n = len(own)
        if n < 3:
            assert (own == DROPPED).all()
            continue
        count = {mark: int((own == mark).sum()) for mark in (TRAIN, VALIDATION, TEST)}
        assert sum(count.values()) == n
        assert min(count.values()) >= 1
        assert count[TEST] == max(1, int(0.2 * n + 0.5))
        assert count[VALIDATION] == max(1, int(0.1 * (n - count[TEST]) + 0.5))
    again, _ = ratio(dataset, seed)
    assert (split == again).all()


def test_ratio_depends_on_the_seed_alone() -> None:
    dataset = make([u for u in range(30) for _ in range(20)])
    first, other = ratio(dataset, 0)[0], ratio(dataset, 1)[0]
    assert (first != other).any()
    shares = np.bincount(first) / len(first)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2])  # 20 a user: 14, 2 (of 1.6), 4.


def test_own_split_is_taken_and_users_without_training_go() -> None:
    dataset = make([0, 0, 1, 1], split=[0, 2, 1, 2])
    split, notes = ratio(dataset, 0)
    assert split.tolist() == [0, 2, -1, -1]
    assert notes == ("1 users without a training interaction in the given split dropped",)
    with pytest.raises(InputError, match="trains on nothing"):
        ratio(make([0, 0], split=[1, 2]), 0)


def test_no_times() -> None:
    with pytest.raises(InputError, match=r"made: no timestamps.*--split ratio"):
        leave_one_out(make([0, 0, 0]))


@pytest.mark.data
def test_ties_of_ml_100k(data_dir) -> None:
    dataset = load_dataset(data_dir / "ml-100k" / "u.data")
    assert dataset.timestamp is not None
    last = np.zeros(dataset.num_users)
    np.maximum.at(last, dataset.user, dataset.timestamp)
    at_last = np.bincount(dataset.user, dataset.timestamp == last[dataset.user])
    assert (at_last > 1).sum() == 415
    split, notes = leave_one_out(dataset)
    assert notes == ()
    assert np.bincount(split).tolist() == [98_114, 943, 943]
    # The test row is the first row of the file among those of the last time.
    first = {}
    for row, (user, time) in enumerate(zip(dataset.user, dataset.timestamp, strict=True)):
        if time == last[user]:
            first.setdefault(int(user), row)
    assert sorted(first.values()) == np.flatnonzero(split == TEST).tolist()
