"""The Gram distance against its formula in float64, made of whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import elementwise_mse, gram_distance
from fedjax_rec.losses.gram import inner_products


def drawn(seed: int, items: int, dim: int, *, symmetric: bool = True):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(items, dim)).astype(np.float32)
    gram = rng.normal(size=(items, items)).astype(np.float32)
    return embeddings, (gram + gram.T if symmetric else gram)


def reference(embeddings, gram) -> tuple[float, np.ndarray]:
    """‖E Eᵀ − G‖_F, and its gradient ((R + Rᵀ) E)/‖R‖ with R = E Eᵀ − G."""
    e, g = np.asarray(embeddings, np.float64), np.asarray(gram, np.float64)
    rest = e @ e.T - g
    distance = float(np.linalg.norm(rest))
    return distance, (rest + rest.T) @ e / distance


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.sampled_from([(1, 1), (7, 3), (12, 20), (40, 9)]), st.booleans())
def test_value_and_gradient_against_float64(seed, shape, symmetric) -> None:
    embeddings, gram = drawn(seed, *shape, symmetric=symmetric)
    distance, gradient = reference(embeddings, gram)
    size = float(np.linalg.norm(gram) + np.linalg.norm(embeddings) ** 2)
    value, found = jax.value_and_grad(gram_distance)(embeddings, gram)
    # Where E Eᵀ is near G the identity loses digits, of the square: hence size²/distance.
    assert float(value) == pytest.approx(distance, abs=1e-6 * size**2 / distance)
    tolerance = 3e-6 * size * np.linalg.norm(embeddings) / distance * (1 + size**2 / distance**2)
    np.testing.assert_allclose(found, gradient, atol=tolerance)


def test_gradient_is_that_of_the_dense_formula() -> None:
    embeddings, gram = drawn(3, 30, 5)

    def dense(e):
        return jnp.linalg.norm(e @ e.T - gram)

    scaled = jax.grad(lambda e: 3.0 * gram_distance(e, jnp.asarray(gram)))(embeddings)
    np.testing.assert_allclose(scaled, 3 * jax.grad(dense)(embeddings), rtol=1e-4, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_rotating_the_embeddings_changes_nothing(seed) -> None:
    embeddings, gram = drawn(seed, 20, 6)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    before = gram_distance(jnp.asarray(embeddings), jnp.asarray(gram))
    after = gram_distance(jnp.asarray(embeddings @ rotation, jnp.float32), jnp.asarray(gram))
    assert float(after) == pytest.approx(float(before), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_at_the_minimum_value_and_gradient_are_bounded(scale) -> None:
    """E Eᵀ = G: no NaN from the root, no blow-up from dividing by a distance of 0."""
    embeddings, _ = drawn(5, 30, 4)
    embeddings *= scale
    gram = embeddings @ embeddings.T
    value, gradient = jax.value_and_grad(gram_distance)(embeddings, gram)
    size = np.linalg.norm(gram)
    assert 0 <= float(value) <= 2e-3 * size
    # The gradient of the norm is of norm 2‖E‖ at most; near the minimum it is noise far below.
    assert np.linalg.norm(gradient) <= 1e-2 * np.linalg.norm(embeddings)


def test_many_clients_side_by_side() -> None:
    tables = np.stack([drawn(seed, 15, 4)[0] for seed in range(3)])
    _, gram = drawn(9, 15, 4)
    together = jax.jit(jax.vmap(jax.value_and_grad(gram_distance), in_axes=(0, None)))
    values, gradients = together(tables, gram)
    for table, value, gradient in zip(tables, values, gradients, strict=True):
        distance, expected = reference(table, gram)
        assert float(value) == pytest.approx(distance, rel=1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 7, 64])
def test_inner_products_from_their_upper_half(dim) -> None:
    embeddings, _ = drawn(dim, 11, dim)
    found = inner_products(jnp.asarray(embeddings))
    exact = np.float64(embeddings).T @ np.float64(embeddings)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize(
    ("embeddings", "gram", "message"),
    [
        ((3,), (3, 3), r"embeddings must be \[items, dim\]"),
        ((3, 2), (2, 2), r"global_gram of shape \(2, 2\) does not fit 3 items"),
        ((3, 2), (3,), r"global_gram of shape \(3,\) does not fit 3 items"),
    ],
)
def test_shapes_that_do_not_fit(embeddings, gram, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        gram_distance(jnp.zeros(embeddings), jnp.zeros(gram))
    assert "\n" not in str(error.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(0, 6))
def test_elementwise_mse_against_float64(seed, width, counted) -> None:
    rng = np.random.default_rng(seed)
    products = rng.normal(size=(6, 5)).astype(np.float32)
    labels, mask = (rng.random((2, 6)) < 0.5) * np.ones((2, 1)), np.arange(6) < counted
    labels = labels[0].astype(np.float32)
    error = (np.float64(products) - labels[:, None])[mask, :width]
    expected = (error**2).mean() if counted else 0.0

    def loss(p):
        return elementwise_mse(p, jnp.asarray(labels), jnp.asarray(mask), width=width)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(products))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    exact = np.zeros((6, 5))
    exact[:counted, :width] = 2 * error / max(error.size, 1)
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-6)
