"""Ranks on the device against counting by hand, with ties, masks and padding."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.evaluation.ranks import TOP_K, HeldOut, rank_user

ITEMS, SEEN, VALIDATION, TEST, CANDIDATES = 15, 5, 2, 3, 4
ranks_of = jax.jit(rank_user)


def _padded(values, width):
    return np.array([*values, *[-1] * (width - len(values))], np.int32)


@st.composite
def users(draw):
    """Scores with many ties, and disjoint lists of any length, padded."""
    scores = draw(st.lists(st.integers(-2, 2), min_size=ITEMS, max_size=ITEMS))
    order = draw(st.permutations(range(ITEMS)))
    lengths = [draw(st.integers(0, n)) for n in (SEEN, VALIDATION, TEST)]
    cuts = np.cumsum([0, *lengths])
    seen, validation, test = (order[a:b] for a, b in pairwise(cuts))
    rest = order[cuts[-1] :]
    candidates = [rest[: draw(st.integers(0, CANDIDATES))] for _ in range(2)]
    return np.array(scores, np.float32), seen, validation, test, candidates


def _brute_force(scores, item, candidates):
    return sum(scores[other] >= scores[item] for other in candidates if other != item)


@given(users())
@settings(max_examples=150, deadline=None)
def test_against_counting(user) -> None:
    scores, seen, validation, test, candidates = user
    held_out = HeldOut(
        users=None,
        seen=_padded(seen, SEEN),
        validation=_padded(validation, VALIDATION),
        test=_padded(test, TEST),
        candidates=np.stack([_padded(c, CANDIDATES) for c in candidates]),
    )
    got = ranks_of(scores, held_out)
    unseen = set(range(ITEMS)) - set(seen)
    expected = {
        "validation_sampled": (validation, candidates[0]),
        "validation_full": (validation, unseen),
        "test_sampled": (test, candidates[1]),
        "test_full": (test, unseen - set(validation)),
    }
    for name, (items, others) in expected.items():
        ranks = [_brute_force(scores, item, others) for item in items]
        width = TEST if name.startswith("test") else VALIDATION
        np.testing.assert_array_equal(getattr(got, name), _padded(ranks, width), err_msg=name)


def _held_out():
    return HeldOut(
        users=None,
        seen=np.array([0, 1, -1]),
        validation=np.array([2]),
        test=np.array([3]),
        candidates=np.array([[4, 5, 6, -1], [5, 6, -1, -1]]),
    )


def test_worked_case() -> None:
    scores = jnp.array([9.0, 9.0, 1.0, 0.5, 1.0, 2.0, 0.0, 0.5])
    got = ranks_of(scores, _held_out())
    assert got.validation_sampled.tolist() == [2]  # items 4 (a tie) and 5
    assert got.validation_full.tolist() == [2]  # the same two; 0 and 1 are training items
    assert got.test_sampled.tolist() == [1]  # item 5
    assert got.test_full.tolist() == [3]  # items 4, 5 and 7 (a tie); 2 is the validation item


@pytest.mark.parametrize("score", [0.0, 7.0, -1e30, float("nan"), float("inf")])
def test_a_constant_score_ranks_last(score) -> None:
    """Of 8 items 6 are unseen, so the last rank is 5; without the validation item 4."""
    got = ranks_of(jnp.full(8, score), _held_out())
    assert got.validation_full.tolist()[0] >= 5
    assert got.test_full.tolist()[0] >= 4
    assert got.validation_sampled.tolist()[0] >= 3
    assert got.test_sampled.tolist()[0] >= 2
    if np.isfinite(score):
        assert [int(r[0]) for r in got[:4]] == [3, 5, 2, 4]


def test_a_score_that_is_no_number_counts_against_the_held_out_item() -> None:
    scores = jnp.array([9.0, 9.0, 1.0, 0.5, jnp.nan, 0.0, 0.0, 0.0])
    got = ranks_of(scores, _held_out())
    assert got.validation_sampled.tolist() == [1]
    assert got.validation_full.tolist() == [1]


def test_without_candidates_there_are_no_sampled_ranks() -> None:
    got = ranks_of(jnp.arange(8.0), _held_out()._replace(candidates=None))
    assert got.validation_sampled is None
    assert got.test_sampled is None
    assert got.test_full.tolist() == [4]
    assert _listed(got.test_top) == [7, 6, 5, 4, 3]
    assert _listed(got.validation_top) == [7, 6, 5, 4, 3, 2]


def test_with_candidates_there_are_no_lists() -> None:
    got = ranks_of(jnp.arange(8.0), _held_out())
    assert got.validation_top is None
    assert got.test_top is None


def _listed(top):
    assert top.shape == (TOP_K,)
    assert top.dtype == jnp.int32
    return [item for item in top.tolist() if item >= 0]


@given(users())
@settings(max_examples=100, deadline=None)
def test_the_best_items_against_sorting(user) -> None:
    scores, seen, validation, test, _ = user
    held_out = HeldOut(
        users=None,
        seen=_padded(seen, SEEN),
        validation=_padded(validation, VALIDATION),
        test=_padded(test, TEST),
        candidates=None,
    )
    got = ranks_of(scores, held_out)
    unseen = set(range(ITEMS)) - set(seen)
    for top, pool in ((got.validation_top, unseen), (got.test_top, unseen - set(validation))):
        best = sorted(pool, key=lambda item: (-scores[item], item))[:TOP_K]
        np.testing.assert_array_equal(top, _padded(best, TOP_K))


def test_a_score_that_is_no_number_is_never_recommended() -> None:
    scores = jnp.arange(20.0).at[19].set(jnp.nan).at[18].set(jnp.nan)
    got = ranks_of(scores, _held_out()._replace(candidates=None))
    assert _listed(got.test_top) == [17, 16, 15, 14, 13, 12, 11, 10]
