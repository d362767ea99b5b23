"""Principal coordinates, and their levels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.server import principal_coordinates, quantize_columns


def random(items: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, width))


def test_coordinates_are_the_left_singular_vectors() -> None:
    vectors = random(40, 6)
    found = principal_coordinates(vectors, 4)
    expected = np.linalg.svd(vectors)[0][:, :4]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-5)
    assert (found[np.abs(found).argmax(axis=0), range(4)] > 0).all()


def test_directions_that_are_not_there_are_zero() -> None:
    vectors = np.outer(np.arange(1.0, 6), [1.0, 2.0, -1.0])
    found = principal_coordinates(vectors, 5)
    assert found.shape == (5, 5)
    assert np.linalg.norm(found[:, 0]) == pytest.approx(1)
    assert not found[:, 1:].any()
    assert not principal_coordinates(np.zeros((3, 2)), 2).any()
    with pytest.raises(InputError, match="item 1 has an embedding that is not finite"):
        principal_coordinates(np.array([[0.0], [np.nan]]), 1)


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_levels_keep_order_sign_and_error(seed: int, bits: int) -> None:
    vectors = random(30, 3, seed).astype(np.float32)
    levels, scale = quantize_columns(vectors, bits)
    assert levels.min() >= 0
    assert levels.max() == 2**bits - 1 or (vectors.max(axis=0) < scale).all()
    np.testing.assert_array_equal(scale, np.abs(vectors).max(axis=0))
    order = np.argsort(vectors, axis=0)
    assert (np.diff(np.take_along_axis(levels, order, axis=0), axis=0) >= 0).all()
    np.testing.assert_array_equal(levels >= 2 ** (bits - 1), vectors >= 0)
    # Half a step of the grid, on the scale on which it is even.
    compressed = np.sign(vectors) * np.sqrt(np.abs(vectors) / scale)
    assert np.abs((levels + 0.5) / 2**bits * 2 - 1 - compressed).max() <= 1 / 2**bits + 1e-5


def test_bits_out_of_range_are_refused() -> None:
    for bits in (0, 9):
        with pytest.raises(InputError, match="must be from 1 to 8"):
            quantize_columns(random(3, 2), bits)
