"""The nuclear norm against NumPy's singular values, and its gradient against U·Vᵀ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.losses import nuclear_norm


def rows_of(seed: int, shape: tuple[int, int], scale: float) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_value_and_gradient(seed: int, scale: float) -> None:
    rows = rows_of(seed, (12, 4), scale)
    left, values, right = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    value, gradient = jax.value_and_grad(nuclear_norm)(jnp.asarray(rows))
    assert float(value) == pytest.approx(values.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, left @ right, atol=2e-3)


def test_padding_and_missing_directions_have_no_gradient() -> None:
    rows = rows_of(0, (6, 4), 1.0)
    rows[:, 3] = 0
    rows[:, 2] = rows[:, 0]  # rank 2
    padded = np.vstack([rows, np.zeros((5, 4), np.float32)])
    value, gradient = jax.value_and_grad(nuclear_norm)(jnp.asarray(padded))
    assert float(value) == pytest.approx(np.linalg.svd(rows)[1].sum(), rel=1e-5)
    left, _, right = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(gradient[:6], left[:, :2] @ right[:2], atol=1e-4)
    assert (np.asarray(gradient[6:]) == 0).all()


def test_of_nothing() -> None:
    value, gradient = jax.value_and_grad(nuclear_norm)(jnp.zeros((3, 2)))
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()
