"""Packed symmetric matrices: what goes in comes out."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import tiles
from fedjax_rec.errors import InputError


def symmetric(m, seed=0):
    half = np.triu(np.random.default_rng(seed).normal(size=(m, m)), 1)
    return (half + half.T).astype(np.float32)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 640])
@given(m=st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_pack_then_unpack_is_exact(side, m) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_TILE_ROWS", side)
        matrix = symmetric(m, seed=m)
        packed = tiles.pack(jnp.asarray(matrix))
        assert packed.shape == tiles.grid(m).shape
        np.testing.assert_array_equal(tiles.unpack(packed, m), matrix)


@given(m=st.integers(1, 60_000))
@settings(max_examples=200, deadline=None)
def test_every_group_has_items_and_fits_a_tile(m) -> None:
    cut = tiles.grid(m)
    rows = [cut.rows(group) for group in range(cut.groups)]
    assert sum(rows) == m
    assert 0 < min(rows) <= max(rows) == cut.side <= 640
    assert len(cut.places) == cut.shape[0]


def test_the_diagonal_and_what_lies_beyond_are_zero() -> None:
    packed = tiles.pack(jnp.ones((1281, 1281)))  # 3 groups of 427
    assert packed.shape == (6, 427, 427)
    assert float(packed.sum()) == 1281 * 1280 / 2 + 3 * 427 * 426 / 2  # diagonal tiles: both halves


def test_split_and_join(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TILE_ROWS", 4)
    vectors = jnp.arange(22.0).reshape(11, 2)
    cut = tiles.grid(11)
    assert cut.split(vectors).shape == (3, 4, 2)
    np.testing.assert_array_equal(cut.join(cut.split(vectors)), vectors)


def test_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"must be square, not \(2, 3\)"):
        tiles.pack(jnp.ones((2, 3)))
    with pytest.raises(InputError, match="are not those of 5 items"):
        tiles.unpack(jnp.ones((1, 4, 4)), 5)
    with pytest.raises(InputError, match="at least 1"):
        tiles.grid(0)
