"""Metrics from ranks: hand-worked cases, and a brute force that looks at the lists themselves."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import (
    clusters,
    f1,
    hit_ratio,
    mean,
    metrics,
    mrr,
    ndcg,
    nmi,
    precision,
    recall,
)

METRICS = [hit_ratio, recall, precision, f1, ndcg, mrr]
NAN = float("nan")


def discount(rank: int) -> float:
    return 1 / math.log2(rank + 2)


@st.composite
def rank_lists(draw) -> list[list[int]]:
    """Distinct ranks a user, some users with none."""
    return draw(
        st.lists(st.lists(st.integers(0, 30), unique=True, max_size=6), min_size=1, max_size=6)
    )


def padded(rows: list[list[int]], width: int = 6) -> np.ndarray:
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int32)


def brute_force(ranks: list[int], k: int) -> dict[str, float]:
    """From a list of 0s and 1s, as the textbooks define them."""
    if not ranks:
        return {metric.__name__: NAN for metric in METRICS}
    relevant = [1 if place in ranks else 0 for place in range(k)]
    gain = sum(discount(place) for place in range(k) if relevant[place])
    ideal = sum(discount(place) for place in range(min(k, len(ranks))))
    found, kept = sum(relevant) / len(ranks), sum(relevant) / k
    return {
        "hit_ratio": float(any(relevant)),
        "recall": found,
        "precision": kept,
        "f1": 2 * found * kept / (found + kept) if any(relevant) else 0.0,
        "ndcg": gain / ideal,
        "mrr": 1 / (relevant.index(1) + 1) if any(relevant) else 0.0,
    }


def test_one_held_out_item() -> None:
    ranks = [0, 1, 9, 10, 98]
    np.testing.assert_array_equal(hit_ratio(ranks, 10), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(recall(ranks, 10), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(ndcg(ranks, 10), [1, discount(1), discount(9), 0, 0])
    np.testing.assert_allclose(mrr(ranks, 10), [1, 1 / 2, 1 / 10, 0, 0])


def test_several_held_out_items_in_any_order() -> None:
    ranks = [[4, 0, 12, -1], [-1, 12, 0, 4]]  # hits at 0 and 4, a miss at 12
    np.testing.assert_array_equal(hit_ratio(ranks, 10), [1, 1])
    np.testing.assert_allclose(recall(ranks, 10), [2 / 3, 2 / 3])
    np.testing.assert_allclose(precision(ranks, 10), [2 / 10, 2 / 10])
    np.testing.assert_allclose(f1(ranks, 10), [4 / 13, 4 / 13])
    ideal = 1 + discount(1) + discount(2)
    np.testing.assert_allclose(ndcg(ranks, 10), [(1 + discount(4)) / ideal] * 2)
    np.testing.assert_array_equal(mrr(ranks, 10), [1, 1])


def test_the_ideal_list_is_no_longer_than_k() -> None:
    assert ndcg([[0, 1, 2, 3]], 2) == pytest.approx(1)
    assert recall([[0, 1, 2, 3]], 2) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", METRICS)
def test_users_without_a_held_out_item_are_nan_and_not_in_the_mean(metric) -> None:
    values = metric([[0], [-1], [50]], 10)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    assert mean(values) == values[0] / 2 > 0
    assert math.isnan(mean(metric([[-1]], 10)))
    assert math.isnan(mean(metric(np.zeros((0, 2), int), 10)))
    assert math.isnan(mean(metric(np.zeros((2, 0), int), 10)))


@given(rank_lists(), st.integers(1, 40))
def test_against_brute_force(rows: list[list[int]], k: int) -> None:
    for metric in METRICS:
        expected = [brute_force(row, k)[metric.__name__] for row in rows]
        values = metric(padded(rows), k)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@given(
    arrays(
        np.int64, array_shapes(min_dims=1, max_dims=2, max_side=5), elements=st.integers(-1, 99)
    ),
    st.integers(1, 50),
)
def test_between_0_and_1_and_a_better_rank_is_never_worse(ranks: np.ndarray, k: int) -> None:
    one = ranks if ranks.ndim == 1 else ranks[:, 0]  # distinct ranks: one held-out item a user
    better = np.where(one > 0, one - 1, one)
    for metric in METRICS:
        values, improved = metric(one, k), metric(better, k)
        known = one >= 0
        assert ((values[known] >= 0) & (values[known] <= 1)).all()
        assert (improved[known] >= values[known]).all()
        assert np.isnan(values[~known]).all()


@given(rank_lists(), st.integers(1, 20))
def test_a_longer_list_never_hits_less(rows: list[list[int]], k: int) -> None:
    ranks = padded(rows)
    known = (ranks >= 0).any(axis=1)
    for metric in (hit_ratio, recall, mrr):  # not ndcg: its ideal grows with k as well
        assert (metric(ranks, k + 1)[known] >= metric(ranks, k)[known]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(metric, k: int) -> None:
    with pytest.raises(InputError, match="k="):
        metric([0], k)


def test_nmi_sees_partitions_not_names() -> None:
    truth = [0, 0, 1, 1, 2, 2]
    assert nmi([5, 5, 3, 3, 9, 9], truth) == pytest.approx(1)
    assert nmi([0] * 6, truth) == pytest.approx(0)
    # Half of one bit's worth: I = 1 bit, H(labels) = 1, H(truth) = 2; 1 / ((1 + 2) / 2).
    assert nmi([0, 0, 1, 1], [0, 1, 2, 3]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("module", [metrics, clusters])
def test_examples(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
