"""The uni99 candidates: distinct, unseen, uniform, and all there are where there are few."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.data import Ragged, draw_unseen


def ragged(lists: list[list[int]]) -> Ragged:
    starts = np.cumsum([0] + [len(row) for row in lists]).astype(np.int64)
    return Ragged(starts, np.array([i for row in lists for i in sorted(row)], np.int32))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3), st.data())
def test_distinct_and_unseen(items: int, count: int, seed: int, data: st.DataObject) -> None:
    history = st.sets(st.integers(0, items - 1)).map(list)
    lists = data.draw(st.lists(history, min_size=1, max_size=8))
    drawn = draw_unseen(np.random.default_rng(seed), ragged(lists), items, count)
    assert drawn.shape == (len(lists), count)
    assert drawn.dtype == np.int32
    for seen, row in zip(lists, drawn, strict=True):
        size = min(count, items - len(seen))
        assert (row[size:] == -1).all()
        assert ((row[:size] >= 0) & (row[:size] < items)).all()
        assert len(set(row[:size].tolist())) == size
        assert not set(row[:size].tolist()) & set(seen)


def test_uniform() -> None:
    # 40,000 users with one history: each of 7 unseen items is in a draw of 3 with chance 3/7,
    # each pair with 3·2 / (7·6) = 1/7. Six standard errors, so chance alone does not fail this.
    users = 40_000
    drawn = draw_unseen(np.random.default_rng(0), ragged([[0, 4, 5]] * users), 10, 3)
    held = np.zeros((users, 10))
    np.put_along_axis(held, drawn.astype(np.int64), 1.0, axis=1)
    unseen = [1, 2, 3, 6, 7, 8, 9]
    error = 6 * 0.5 / np.sqrt(users)
    np.testing.assert_allclose(held.mean(axis=0)[unseen], 3 / 7, atol=error)
    together = (held.T @ held / users)[np.ix_(unseen, unseen)]
    np.testing.assert_allclose(together[~np.eye(7, dtype=bool)], 1 / 7, atol=error)
