"""The published metrics: cases worked out from CPython's hash table by hand.

Up to 4 ints live in a table of 8 slots, 5 to 18 (so also a top 10) in one of 32. An id wants the
slot of its remainder and is moved to another where that is taken; iteration goes by slot.
"""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import mrr_published, ndcg_published, published

SIX = [31, 96, 33, 5, 70, 12]  # slots of 32: 31 -> 31, 96 -> 0, 33 -> 1, 5 -> 5, 70 -> 6, 12 -> 12
# Order of iteration: 96, 33, 5, 70, 12, 31.


def discount(place: int) -> float:
    return 1 / math.log2(place + 2)


@pytest.mark.parametrize(("item", "place"), [(96, 0), (33, 1), (5, 2), (70, 3), (12, 4), (31, 5)])
def test_the_place_is_the_slot_not_the_score(item: int, place: int) -> None:
    assert mrr_published([SIX], [[item]]) == pytest.approx(1 / (place + 1))
    assert ndcg_published([SIX], [[item]]) == pytest.approx(discount(place))


def test_two_hits_and_an_ideal_of_two_although_three_are_held_out() -> None:
    held_out = [[70, 33, 999]]  # places 3 and 1, and a miss that costs nothing
    expected = (discount(1) + discount(3)) / (1 + discount(1))
    assert ndcg_published([SIX], held_out) == pytest.approx(expected)
    assert mrr_published([SIX], held_out) == pytest.approx(1 / 2)


def test_of_two_ids_for_one_slot_the_first_in_has_it() -> None:
    assert mrr_published([[1, 33]], [[1]]) == 1  # 33 mod 8 = 1 too: it is moved on
    assert mrr_published([[33, 1]], [[1]]) == 0.5


def test_no_hit_no_held_out_item_and_padding() -> None:
    top_k = [[3, 1], [3, 1], [3, -1]]
    held_out = [[7, -1], [-1, -1], [3, -1]]
    for metric in (ndcg_published, mrr_published):
        np.testing.assert_array_equal(metric(top_k, held_out), [0, np.nan, 1])


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
    st.data(),
)
def test_found_or_not_does_not_depend_on_the_order(top, missed, data) -> None:
    wanted = data.draw(st.lists(st.sampled_from(top), unique=True)) + missed
    found = bool(set(top) & set(wanted))
    for metric in (ndcg_published, mrr_published):
        value = metric([top], [wanted])[0]
        assert (value > 0) == found
        assert value <= 1 + 1e-12


def _plain(top, wanted):
    """(NDCG, MRR) of one user, in plain Python from the definition."""
    hits = [place for place, item in enumerate(set(top)) if item in wanted]
    if not hits:
        return 0.0, 0.0
    gain, ideal = sum(map(discount, hits)), sum(map(discount, range(len(hits))))
    return gain / ideal, 1 / (hits[0] + 1)


@given(st.data())
def test_against_plain_python(data) -> None:
    items = st.integers(0, data.draw(st.sampled_from([15, 300, 10**9])))
    lists = st.lists(items, unique=True, max_size=10)
    users = data.draw(st.lists(st.tuples(lists, lists.filter(len)), min_size=1, max_size=6))
    top_k = [[*top, *[-1] * (10 - len(top))] for top, _ in users]
    held_out = [[*[-1] * (10 - len(wanted)), *wanted] for _, wanted in users]
    ndcg, mrr = zip(*(_plain(top, wanted) for top, wanted in users), strict=True)
    np.testing.assert_allclose(ndcg_published(top_k, held_out), ndcg, rtol=1e-12)
    np.testing.assert_allclose(mrr_published(top_k, held_out), mrr, rtol=1e-12)


def test_one_user_s_held_out_items_are_no_other_s() -> None:
    np.testing.assert_array_equal(mrr_published([[3, 4], [3, 4]], [[3], [9]]), [1, 0])
    # Nor is padding a hit on padding.
    np.testing.assert_array_equal(mrr_published([[-1, -1]], [[5, -1]]), [0])


@given(st.permutations(range(8)))
def test_small_ids_are_walked_in_ascending_order(order: list[int]) -> None:
    # 0 … 7 never collide: whatever the scores, item i has place i.
    for item in range(8):
        assert mrr_published([order], [[item]]) == pytest.approx(1 / (item + 1))


@pytest.mark.parametrize(
    ("top_k", "held_out"), [([1, 2], [[1]]), ([[1, 2]], [1]), ([[1], [2]], [[1]])]
)
def test_bad_shapes(top_k, held_out) -> None:
    with pytest.raises(InputError, match="shapes"):
        ndcg_published(top_k, held_out)


def test_examples() -> None:
    result = doctest.testmod(published)
    assert result.attempted > 0
    assert result.failed == 0
