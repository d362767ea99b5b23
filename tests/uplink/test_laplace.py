"""The law of the noise, its keys, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import laplace

KEY = jax.random.key(3)


@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_noise_has_the_laplace_law(scale: float) -> None:
    rows = jnp.full((200, 100), 0.25)
    noise = np.asarray(laplace(scale).apply(KEY, rows) - rows).ravel()
    # A fixed key: 20,000 draws, no flakiness. A normal of the same variance gives p < 1e-50.
    assert stats.kstest(noise, stats.laplace(scale=scale).cdf).pvalue > 0.01


def test_no_noise_at_scale_0() -> None:
    rows = jnp.array([[1.0, -2.0]])
    np.testing.assert_array_equal(laplace(0.0).apply(KEY, rows), rows)


def test_same_key_same_noise_other_key_other_noise() -> None:
    rows = jnp.zeros((3, 3))
    first, again = laplace(1.0).apply(KEY, rows), laplace(1.0).apply(KEY, rows)
    np.testing.assert_array_equal(first, again)
    assert (first != laplace(1.0).apply(jax.random.key(4), rows)).all()


@pytest.mark.parametrize("scale", [-0.1, float("inf"), float("nan")])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(InputError, match="laplace="):
        laplace(scale)
