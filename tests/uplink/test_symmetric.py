"""Bits of symmetric matrices, by hand and against counting pairs one by one."""

from itertools import combinations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import pairs, triangle


@pytest.mark.parametrize(
    ("items", "value_bits", "diagonal", "bits"),
    [
        (1, 32, True, 32),
        (1, 32, False, 0),
        (3, 32, True, 6 * 32),
        (3, 8, False, 3 * 8),
        (1682, 32, True, 1_415_403 * 32),
        (1682, 4, False, 1_413_721 * 4),
    ],
)
def test_triangles(items, value_bits, diagonal, bits) -> None:
    assert triangle(items, value_bits=value_bits, diagonal=diagonal).bits == bits


@pytest.mark.parametrize(
    ("items", "count", "value_bits", "bits"),
    [
        (1, 0, 32, 0),
        (2, 1, 32, 32),  # one pair: its index says nothing
        (3, 0, 32, 0),
        (3, 1, 32, 32 + 2),  # three pairs: 2 bits of index
        (3, 2, 32, 2 * 34),
        (3, 3, 32, 3 * 32),  # dense: 96 bits, where sparse has 102
        (4, 4, 4, 6 * 4),  # six pairs: 28 bits sparse, 24 dense
        (4, 3, 4, 3 * 7),
        (1682, 1000, 8, 1000 * (8 + 21)),
        (50_000, 10, 32, 10 * (32 + 31)),
    ],
)
def test_sparse_pairs(items, count, value_bits, bits) -> None:
    assert pairs(items, count, value_bits=value_bits).bits == bits


@given(st.integers(1, 12), st.integers(1, 32), st.data())
def test_never_more_than_dense_and_enough_to_tell_pairs_apart(items, value_bits, data) -> None:
    every = list(combinations(range(items), 2))
    count = data.draw(st.integers(0, len(every)))
    form = pairs(items, count, value_bits=value_bits)
    assert triangle(items, value_bits=value_bits, diagonal=False).values == len(every)
    if form.bits < len(every) * value_bits and count:
        index_bits = form.bits // count - value_bits
        assert 2**index_bits >= len(every) > (2**index_bits // 2 if index_bits else 0)
    else:
        assert form.bits in (0, len(every) * value_bits)


@given(st.integers(2, 40), st.integers(1, 32))
def test_more_pairs_never_cost_less(items, value_bits) -> None:
    whole = items * (items - 1) // 2
    bits = [pairs(items, count, value_bits=value_bits).bits for count in range(whole + 1)]
    assert bits == sorted(bits)


def test_values_can_be_told_from_labels() -> None:
    assert triangle(3).floating
    assert pairs(3, 1).floating


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: triangle(0), "0 items at 32 bits"),
        (lambda: triangle(5, value_bits=0), "5 items at 0 bits"),
        (lambda: pairs(4, 7), "7 pairs of 4 items: there are 6"),
        (lambda: pairs(4, -1), "-1 pairs of 4 items"),
        (lambda: pairs(1, 1), "1 pairs of 1 items: there are 0"),
    ],
)
def test_matrices_that_cannot_be(call, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
