"""Row clipping against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import clip_rows

KEY = jax.random.key(0)
tables = arrays(
    np.float32,
    st.sampled_from([(1, 1), (3, 4), (2, 3, 5)]),  # few shapes: each compiles once
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)


@given(tables, st.floats(2.0**-20, 2.0**20))
@settings(max_examples=60, deadline=None)
def test_against_float64(rows: np.ndarray, max_norm: float) -> None:
    norm = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
    expected = rows * np.minimum(1, max_norm / np.maximum(norm, 1e-300))
    got = np.asarray(clip_rows(max_norm).apply(KEY, jnp.asarray(rows)), np.float64)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * max_norm)
    assert (np.linalg.norm(got, axis=-1) <= max_norm * (1 + 1e-6)).all()


def test_rows_within_the_bound_and_zero_rows_pass_bitwise() -> None:
    rows = jnp.array([[0.0, 0.0], [0.3, 0.4], [0.1, -0.7]])
    np.testing.assert_array_equal(clip_rows(1.0).apply(KEY, rows), rows)


def test_a_diverged_row_is_clipped_not_zeroed() -> None:
    got = clip_rows(1.0).apply(KEY, jnp.array([[3e30, 4e30]]))
    np.testing.assert_allclose(got, [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_row_is_nan_and_alone(bad: float) -> None:
    got = np.asarray(clip_rows(1.0).apply(KEY, jnp.array([[bad, 1.0], [3.0, 4.0]])))
    assert np.isnan(got[0]).any()
    np.testing.assert_allclose(got[1], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_bounds(max_norm: float) -> None:
    with pytest.raises(InputError, match="clip="):
        clip_rows(max_norm)
