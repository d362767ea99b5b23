"""Codes without vectors: chance, their type, telling items apart, bad input."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.server import codes as codes_module
from fedjax_rec.server import distinct_codes, hash_codes

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("codewords", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (70_000, np.uint32)]
)
def test_codes_have_the_smallest_type(codewords, dtype) -> None:
    assert hash_codes(3, levels=2, codewords=codewords, seed=0).dtype == dtype


def test_hash_codes_are_uniform_independent_and_seeded() -> None:
    codes = hash_codes(20_000, levels=2, codewords=10, seed=0)
    joint = np.bincount(codes[:, 0] * 10 + codes[:, 1].astype(int), minlength=100)
    # 100 cells of 200 ± 14: a χ² of 99 degrees of freedom stays below 170 but once in 10⁵ seeds.
    assert np.sum((joint - 200) ** 2 / 200) < 170
    np.testing.assert_array_equal(codes, hash_codes(20_000, levels=2, codewords=10, seed=0))
    assert (codes != hash_codes(20_000, levels=2, codewords=10, seed=1)).any()


@pytest.mark.parametrize("name", ["items", "levels", "codewords"])
def test_hash_codes_refuses(name) -> None:
    options = {"items": 3, "levels": 1, "codewords": 2, "seed": 0} | {name: 0}
    with pytest.raises(InputError, match=f"{name}=0 must be 1 or more"):
        hash_codes(options.pop("items"), **options)


@given(SEEDS, st.integers(1, 40), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_distinct_codes_tell_items_apart_where_they_can(seed, m, levels, codewords) -> None:
    codes = np.random.default_rng(seed).integers(codewords, size=(m, levels)).astype(np.uint8)
    given_codes = codes.copy()
    apart = distinct_codes(codes, codewords=codewords, seed=seed)
    np.testing.assert_array_equal(codes, given_codes)  # not in place
    assert apart.dtype == codes.dtype
    assert apart.max(initial=0) < codewords
    np.testing.assert_array_equal(apart[:, :-1], codes[:, :-1])
    np.testing.assert_array_equal(apart, distinct_codes(codes, codewords=codewords, seed=seed))
    # All that share the levels before are apart, as many as there are codewords.
    _, prefix = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    for group in np.unique(prefix.reshape(-1)):
        own = apart[prefix.reshape(-1) == group, -1]
        assert len(np.unique(own)) == min(len(own), codewords)
    # Who was alone, or first, keeps its codes.
    _, first = np.unique(codes, axis=0, return_index=True)
    np.testing.assert_array_equal(apart[first], codes[first])


def test_distinct_codes_need_codes() -> None:
    with pytest.raises(InputError, match="codes of 4 codewords go from 0 to 3"):
        distinct_codes(np.array([[0, 4]]), codewords=4, seed=0)


def test_examples() -> None:
    result = doctest.testmod(codes_module)
    assert result.attempted > 0
