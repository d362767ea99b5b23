"""The ε of clip and Laplace against its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import clip_rows, epsilon

sizes = st.integers(1, 1000)
reals = st.floats(1e-3, 1e3)


def test_hand_worked() -> None:
    # Sensitivity 2 · 10 rows · norm 1 · √4 = 40; 40 / 0.5 = 80; three rounds, 240.
    assert epsilon(1.0, 0.5, rows=10, dim=4) == 80
    assert epsilon(1.0, 0.5, rows=10, dim=4, rounds=3) == 240


def test_no_epsilon_without_a_clip_or_without_noise() -> None:
    assert epsilon(None, 0.5, rows=10, dim=4) is None
    assert epsilon(1.0, None, rows=10, dim=4) is None
    assert epsilon(1.0, 0.0, rows=10, dim=4) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 4), (7, 1)]))
@settings(max_examples=50, deadline=None)
def test_no_two_uploads_differ_by_more_than_the_sensitivity(seed: int, shape) -> None:
    rows, dim = shape
    rng = np.random.default_rng(seed)
    tables = jnp.asarray(rng.standard_cauchy((2, rows, dim)), jnp.float32)
    one, two = np.asarray(clip_rows(0.7).apply(jax.random.key(0), tables), np.float64)
    # With scale 1, ε is the sensitivity itself.
    assert np.abs(one - two).sum() <= epsilon(0.7, 1.0, rows=rows, dim=dim) * (1 + 1e-5)


def test_the_sensitivity_is_reached() -> None:
    ones = jnp.ones((1, 6, 9))
    one, two = clip_rows(0.7).apply(jax.random.key(0), jnp.concatenate([ones, -ones]))
    assert float(jnp.abs(one - two).sum()) == pytest.approx(epsilon(0.7, 1.0, rows=6, dim=9))


@given(reals, reals, sizes, sizes, st.integers(1, 100))
def test_rounds_add_up_and_more_noise_is_more_private(c, scale, rows, dim, rounds) -> None:
    once = epsilon(c, scale, rows=rows, dim=dim)
    assert epsilon(c, scale, rows=rows, dim=dim, rounds=rounds) == pytest.approx(rounds * once)
    assert epsilon(c, 2 * scale, rows=rows, dim=dim) == pytest.approx(once / 2)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_norm": 0.0},
        {"max_norm": -1.0},
        {"scale": -0.5},
        {"rows": -1},
        {"dim": -1},
        {"rounds": -1},
    ],
)
def test_bad_numbers(bad: dict) -> None:
    with pytest.raises(InputError):
        epsilon(**{"max_norm": 1.0, "scale": 1.0, "rows": 1, "dim": 1, **bad})
