"""Projection onto the simplex: its laws, and a solver of quadratic programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedjax_rec.relations import project_to_simplex

vectors = st.lists(st.floats(-9, 9, width=32), min_size=12, max_size=12)  # one compilation
project = jax.jit(project_to_simplex)


def solved(values: np.ndarray) -> np.ndarray:
    """min ‖w − v‖² on the simplex, by sequential quadratic programming."""
    values = values - values.max()  # the same solution, and smaller numbers
    start = np.full(len(values), 1 / len(values))
    found = minimize(
        lambda w: ((w - values) ** 2).sum(),
        start,
        jac=lambda w: 2 * (w - values),
        bounds=[(0, None)] * len(values),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.05, 0.5, 4.0])  # all weights positive, some, few
def test_it_solves_the_quadratic_program(seed, spread) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=8) * spread).astype(np.float32)
    allowed = rng.random(8) < 0.8
    allowed[0] = True
    found = np.asarray(project_to_simplex(values, allowed))
    np.testing.assert_allclose(found[allowed], solved(values[allowed].astype(float)), atol=2e-6)
    assert (found[~allowed] == 0).all()


@settings(max_examples=60, deadline=None)
@given(values=vectors, seed=st.integers(0, 99), shift=st.floats(-5, 5))
def test_laws(values, seed, shift) -> None:
    rng = np.random.default_rng(seed)
    v = np.array(values, np.float32)
    allowed = rng.random(len(v)) < 0.7
    allowed[rng.integers(len(v))] = True
    w = np.asarray(project(v, allowed))
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-5)
    assert (w[~allowed] == 0).all()
    np.testing.assert_allclose(project(w, allowed), w, atol=1e-5)
    np.testing.assert_allclose(project(v + np.float32(shift), allowed), w, atol=1e-5)
    order = rng.permutation(len(v))
    np.testing.assert_allclose(project(v[order], allowed[order]), w[order], atol=1e-6)
    kept = np.argsort(-np.where(allowed, v, -np.inf), kind="stable")
    assert (np.diff(w[kept]) <= 1e-6).all()  # the larger v, the larger its weight


def test_many_at_once_and_values_of_nobody() -> None:
    v = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    allowed = np.arange(9) < 6
    shown = np.where(allowed, v, np.nan)
    found = project_to_simplex(shown, allowed)
    for row in range(5):
        alone = project_to_simplex(jnp.asarray(v[row]), allowed)
        np.testing.assert_allclose(found[row], alone, atol=1e-7)
    assert (np.asarray(project_to_simplex(shown, np.zeros(9, bool))) == 0).all()
