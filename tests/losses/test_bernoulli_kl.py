"""KL of predictions from given probabilities, against float64, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_rec.losses import bernoulli_kl

SIZE = 6
value_and_gradient = jax.jit(jax.value_and_grad(bernoulli_kl))
logits_ = arrays(np.float32, SIZE, elements=st.floats(-40, 40, width=32))
shares = arrays(np.float32, SIZE, elements=st.floats(0, 1, width=32))


def exact(logits, targets, mask) -> float:
    """By the definition, in float64, with log σ(x) = −log(1 + e^−x)."""
    x, p = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    log_q, log_rest = -np.logaddexp(0, -x), -np.logaddexp(0, x)

    def times_log(a, log_b):
        return np.where(a > 0, a * (np.log(np.where(a > 0, a, 1)) - log_b), 0)

    each = times_log(p, log_q) + times_log(1 - p, log_rest)
    return float(each[mask].mean()) if mask.any() else 0.0


@given(logits_, shares, arrays(np.bool_, SIZE))
@settings(max_examples=100, deadline=None)
def test_value_and_gradient_against_float64(logits, targets, mask) -> None:
    value, gradient = value_and_gradient(logits, targets, mask)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact(logits, targets, mask), rtol=1e-5, atol=1e-5)
    sigmoid = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = np.where(mask, sigmoid - targets, 0) / max(mask.sum(), 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_never_negative_and_zero_only_where_both_agree() -> None:
    logits = jnp.linspace(-6, 6, 25)
    same = bernoulli_kl(logits, jax.nn.sigmoid(logits), jnp.ones(25))
    assert float(same) == pytest.approx(0, abs=1e-6)
    for shift in (-1.0, 1.0):
        assert float(bernoulli_kl(logits, jax.nn.sigmoid(logits + shift), jnp.ones(25))) > 0.01


def test_targets_are_constants() -> None:
    gradient = jax.grad(bernoulli_kl, argnums=1)(jnp.ones(3), jnp.full(3, 0.3), jnp.ones(3))
    assert (np.asarray(gradient) == 0).all()
