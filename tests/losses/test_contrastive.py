"""The contrastive loss and its analytic gradient: float64, autodiff, edge cases, memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import supervised_contrastive
from fedjax_rec.losses.contrastive import MIN_TEMPERATURE
from tests.losses import paths, reference

REFERENCE = {"temperature": 0.1, "base_temperature": 0.5}
ANCHORS = ("all", "positive")


@st.composite
def catalogues(draw):
    """Embeddings with zero, doubled, tiny and huge rows, any labels, and a temperature."""
    cases = [(1, 3, 0.1), (2, 1, 0.03), (5, 3, 1.0), (9, 4, 0.1), (9, 4, 0.03)]
    m, d, temperature = draw(st.sampled_from(cases))  # each compiles once
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(m, d))
    for row in range(m):
        kind = draw(st.sampled_from(["plain", "plain", "zero", "double", "tiny", "huge"]))
        if kind == "zero":
            rows[row] = 0
        elif kind == "double":
            rows[row] = rows[draw(st.integers(0, m - 1))]
        else:
            rows[row] *= {"plain": 1, "tiny": 1e-4, "huge": 1e4}[kind]
    labels = draw(st.lists(st.integers(0, m - 1), min_size=m, max_size=m))
    return rows.astype(np.float32), np.array(labels, np.int32), temperature


@partial(jax.jit, static_argnames=("temperature", "base_temperature", "anchors"))
def value_and_gradient(rows, labels, **options):
    return jax.value_and_grad(partial(supervised_contrastive, **options))(rows, labels)


@pytest.mark.parametrize("anchors", ANCHORS)
@given(catalogue=catalogues())
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_against_float64(anchors, catalogue) -> None:
    rows, labels, temperature = catalogue
    options = {"temperature": temperature, "base_temperature": 0.5, "anchors": anchors}
    value, gradient = value_and_gradient(rows, labels, **options)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    # One rounding of a similarity is 6e-8; 1/τ multiplies it, τ/τ₀ takes part of that back.
    np.testing.assert_allclose(
        value, reference.contrastive(rows, labels, **options), rtol=1e-5, atol=1e-5
    )
    # A row's gradient shrinks with its norm: compare what is left after that.
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    exact = reference.contrastive_gradient(rows, labels, **options)
    np.testing.assert_allclose(gradient * norm, exact * norm, rtol=1e-4, atol=2e-5 / temperature)
    assert (np.asarray(gradient)[norm[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("anchors", ANCHORS)
def test_the_reference_gradient_is_the_slope_of_the_reference(anchors) -> None:
    """The float64 gradient that the others are held to, against central differences."""
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(7, 3)), np.array([0, 0, 1, 2, 2, 2, 3])
    options = {**REFERENCE, "anchors": anchors}
    slope = np.zeros_like(rows)
    for at in np.ndindex(rows.shape):
        step = np.zeros_like(rows)
        step[at] = 1e-5
        ahead = reference.contrastive(rows + step, labels, **options)
        slope[at] = (ahead - reference.contrastive(rows - step, labels, **options)) / 2e-5
    exact = reference.contrastive_gradient(rows, labels, **options)
    np.testing.assert_allclose(exact, slope, atol=1e-8)


def _plain(embeddings, labels, *, temperature, base_temperature, anchors):
    """The same loss the obvious way, for autodiff."""
    m = len(labels)
    unit = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = unit @ unit.T / temperature
    itself = jnp.eye(m, dtype=bool)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    each = logits - jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=1, keepdims=True)
    count = positive.sum(axis=1)
    per_anchor = jnp.sum(jnp.where(positive, each, 0), axis=1) / jnp.maximum(count, 1)
    anchor_count = m if anchors == "all" else jnp.maximum(jnp.sum(count > 0), 1)
    return -temperature / base_temperature * jnp.sum(per_anchor) / anchor_count


@pytest.mark.parametrize("anchors", ANCHORS)
@pytest.mark.parametrize("path", paths.PATHS)
def test_every_path_against_autodiff_under_jit_and_vmap(monkeypatch, path, anchors) -> None:
    taken = paths.force(monkeypatch, path)
    rng = np.random.default_rng(2)
    rows = jnp.asarray(rng.normal(size=(3, 11, 5)), jnp.float32)
    labels = jnp.asarray([[0] * 11, list(range(11)), [3, 3, 1, 1, 1, 0, 7, 7, 7, 7, 2]])
    options = {**REFERENCE, "anchors": anchors}
    ours = jax.value_and_grad(lambda e, c: supervised_contrastive(e, c, **options))
    value, gradient = jax.jit(jax.vmap(ours))(rows, labels)
    assert taken == {paths.PATHS[path].function}

    plain = jax.jit(jax.vmap(jax.value_and_grad(partial(_plain, **options))))
    expected_value, expected_gradient = plain(rows, labels)
    np.testing.assert_allclose(value, expected_value, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-5)
    # Without a gradient another branch computes the value.
    forward = jax.jit(jax.vmap(lambda e, c: supervised_contrastive(e, c, **options)))
    np.testing.assert_allclose(forward(rows, labels), value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("anchors", ANCHORS)
@pytest.mark.parametrize("m", [1, 2, 6])
def test_items_all_alone_give_nothing(m, anchors) -> None:
    rows = np.random.default_rng(3).normal(size=(m, 4)).astype(np.float32)
    value, gradient = value_and_gradient(rows, np.arange(m), anchors=anchors)
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()


def test_doubled_rows_of_one_cluster() -> None:
    """m equal items: every anchor's softmax is uniform over the m − 1 others, at rest."""
    m = 6
    rows = jnp.tile(jnp.array([[0.3, -2.0, 1.0]]), (m, 1))
    value, gradient = value_and_gradient(rows, jnp.zeros(m, jnp.int32), **REFERENCE)
    assert float(value) == pytest.approx(0.1 / 0.5 * np.log(m - 1), rel=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_opposite_items_at_the_smallest_temperature() -> None:
    rows = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    labels = np.array([0, 0, 1])
    options = {"temperature": MIN_TEMPERATURE, "base_temperature": 0.5}
    value, gradient = value_and_gradient(rows, labels, **options)
    expected = reference.contrastive(rows, labels, anchors="all", **options)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


def test_invariances() -> None:
    """Scale and order of items do not matter, and nothing pulls along a row itself."""
    rng = np.random.default_rng(4)
    rows = jnp.asarray(rng.normal(size=(10, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 10))
    loss = value_and_gradient
    value, gradient = loss(rows, labels)
    np.testing.assert_allclose(np.sum(gradient * rows, axis=1), 0, atol=1e-6)

    scale = jnp.asarray(rng.uniform(0.1, 10, (10, 1)), jnp.float32)
    scaled_value, scaled_gradient = loss(scale * rows, labels)
    np.testing.assert_allclose(scaled_value, value, rtol=1e-5)
    np.testing.assert_allclose(scaled_gradient * scale, gradient, atol=1e-5)

    order = rng.permutation(10)
    permuted_value, permuted_gradient = loss(rows[order], labels[order])
    np.testing.assert_allclose(permuted_value, value, rtol=1e-5)
    np.testing.assert_allclose(permuted_gradient, gradient[order], atol=1e-6)


def test_cotangent_scales_the_gradient() -> None:
    rows = jnp.asarray(np.random.default_rng(5).normal(size=(6, 3)), jnp.float32)
    labels = jnp.array([0, 0, 1, 1, 2, 2])
    _, once = value_and_gradient(rows, labels)
    scaled = jax.jit(jax.grad(lambda e: -3.0 * supervised_contrastive(e, labels)))(rows)
    np.testing.assert_allclose(scaled, -3.0 * once, rtol=1e-6)


@pytest.mark.parametrize(("m", "d", "limit"), [(6000, 32, 64e6), (12_454, 64, 128e6)])
def test_large_catalogues_need_no_square_array(m, d, limit) -> None:
    shapes = jax.ShapeDtypeStruct((m, d), jnp.float32), jax.ShapeDtypeStruct((m,), jnp.int32)
    program = jax.jit(jax.value_and_grad(supervised_contrastive)).lower(*shapes).compile()
    assert f"{m},{m}" not in program.as_text()
    assert 0 < program.memory_analysis().temp_size_in_bytes < limit < 4 * m * m


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"temperature": 0.02}, "temperature=0.02 .* at least 0.03"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"base_temperature": 0.0}, "base_temperature=0.0 must be positive"),
        ({"anchors": "some"}, "anchors='some'.*'all' or 'positive'"),
        ({"labels": jnp.zeros(4, jnp.int32)}, r"labels \(4,\) do not fit embeddings \(3, 2\)"),
        ({"embeddings": jnp.ones(3)}, r"must be \[items, dim\], not of shape \(3,\)"),
    ],
)
def test_wrong_arguments(wrong, names) -> None:
    arguments = {"embeddings": jnp.ones((3, 2)), "labels": jnp.zeros(3, jnp.int32), **wrong}
    with pytest.raises(InputError, match=names) as error:
        supervised_contrastive(arguments.pop("embeddings"), arguments.pop("labels"), **arguments)
    assert "\n" not in str(error.value)
