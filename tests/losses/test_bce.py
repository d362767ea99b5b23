"""Binary cross-entropy against float64, at large logits, and with nothing to average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_rec.losses import binary_cross_entropy
from tests.losses import reference

SIZE = 7
value_and_gradient = jax.jit(jax.value_and_grad(binary_cross_entropy))
finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(
    arrays(np.float32, SIZE, elements=finite | st.sampled_from([0.0, 1.0, -17.0])),
    arrays(np.bool_, SIZE),
    arrays(np.bool_, SIZE),
)
@settings(max_examples=100, deadline=None)
def test_value_and_gradient_against_float64(logits, labels, mask) -> None:
    labels = labels.astype(np.float32)
    value, gradient = value_and_gradient(logits, labels, mask)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    np.testing.assert_allclose(
        value, reference.cross_entropy(logits, labels, mask), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        gradient, reference.cross_entropy_gradient(logits, labels, mask), rtol=1e-5, atol=1e-7
    )


def test_no_logit_overflows() -> None:
    logits = jnp.array([100.0, -100.0, 3e38, -3e38])
    for label, expected in ((1.0, [0, 100, 0, 3e38]), (0.0, [100, 0, 3e38, 0])):
        for at, loss in enumerate(expected):
            mask = jnp.arange(4) == at
            value, gradient = value_and_gradient(logits, jnp.full(4, label), mask)
            assert float(value) == pytest.approx(loss, rel=1e-6)
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mask", [jnp.zeros(SIZE), jnp.zeros(SIZE, bool)])
def test_nothing_kept_is_zero_with_zero_gradient(mask) -> None:
    value, gradient = value_and_gradient(jnp.linspace(-5, 5, SIZE), jnp.ones(SIZE), mask)
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()


def test_what_the_mask_drops_has_no_say() -> None:
    mask = jnp.arange(SIZE) < 3
    logits = jnp.linspace(-2, 2, SIZE)
    labels = (jnp.arange(SIZE) % 2).astype(jnp.float32)
    alone = binary_cross_entropy(logits[:3], labels[:3], jnp.ones(3))
    for other in (-50.0, 0.0, 50.0):
        padded = jnp.where(mask, logits, other)
        np.testing.assert_allclose(binary_cross_entropy(padded, labels, mask), alone, rtol=1e-6)
