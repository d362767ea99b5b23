"""Sampled denominators: float64, what is unbiased and what is not, edge cases, memory."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import tiles
from fedjax_rec.errors import InputError
from fedjax_rec.losses import (
    AlignmentTerm,
    ContrastTerm,
    cosine_similarity,
    draw_sample,
    masked_frobenius,
    structural_loss,
    supervised_contrastive,
)
from fedjax_rec.losses.pairwise import Contrast, pairwise
from fedjax_rec.losses.sampled import sampled_contrast
from fedjax_rec.losses.structural import MIN_TEMPERATURE
from tests.losses import reference

ANCHORS = ("all", "positive")
REFERENCE = {"temperature": 0.1, "base_temperature": 0.5}


@partial(jax.jit, static_argnames=("temperature", "base_temperature", "anchors"))
def value_and_gradient(rows, labels, sample, **options):
    def loss(e):
        return supervised_contrastive(e, labels, sample=sample, **options)

    return jax.value_and_grad(loss)(rows)


@st.composite
def catalogues(draw):
    """Embeddings with zero and doubled rows, labels with items alone, a sample, a temperature."""
    m, d, count, temperature = draw(
        st.sampled_from([(4, 2, 3, 0.1), (9, 4, 3, 0.03), (9, 4, 8, 0.1), (9, 4, 9, 1.0)])
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(m, d))
    for row in range(m):
        kind = draw(st.sampled_from(["plain", "plain", "zero", "double"]))
        if kind == "zero":
            rows[row] = 0
        elif kind == "double":
            rows[row] = rows[draw(st.integers(0, m - 1))]
    labels = draw(st.lists(st.integers(0, m - 1), min_size=m, max_size=m))
    sample = rng.permutation(m)[:count]
    return rows.astype(np.float32), np.array(labels), sample, temperature


@pytest.mark.parametrize("anchors", ANCHORS)
@given(catalogue=catalogues())
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_against_float64(anchors, catalogue) -> None:
    rows, labels, sample, temperature = catalogue
    options = {"temperature": temperature, "base_temperature": 0.5, "anchors": anchors}
    value, gradient = value_and_gradient(rows, labels, sample, **options)
    expected = reference.sampled_contrastive(rows, labels, sample, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    exact = reference.sampled_gradient(rows, labels, sample, **options)
    np.testing.assert_allclose(gradient * norm, exact * norm, rtol=1e-4, atol=5e-5 / temperature)
    assert (np.asarray(gradient)[norm[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("side", [640, 4, 1])
def test_row_blocks_under_jit_and_vmap(monkeypatch, side) -> None:
    """One block, several with a short last one, and single rows."""
    monkeypatch.setattr(tiles, "_TILE_ROWS", side)
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(3, 11, 5)).astype(np.float32)
    labels = np.array([[0] * 11, list(range(11)), [3, 3, 1, 1, 1, 0, 7, 7, 7, 7, 2]])
    samples = np.array([rng.permutation(11)[:5] for _ in range(3)])
    options = {**REFERENCE, "anchors": "positive"}

    def loss(e, labels, sample):
        return supervised_contrastive(e, labels, sample=sample, **options)

    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(rows, labels, samples)
    for i in range(3):
        arguments = rows[i], labels[i], samples[i]
        expected = reference.sampled_contrastive(*arguments, **options)
        np.testing.assert_allclose(value[i], expected, rtol=1e-5, atol=1e-6)
        expected = reference.sampled_gradient(*arguments, **options)
        np.testing.assert_allclose(gradient[i], expected, atol=2e-5)
    # Without a gradient another branch computes the value.
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(rows, labels, samples), value, rtol=1e-6)


@pytest.mark.parametrize("anchors", ANCHORS)
def test_a_sample_of_all_items_is_exact(anchors) -> None:
    rng = np.random.default_rng(3)
    rows = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    labels = rng.integers(0, 12, 30)
    sampled = value_and_gradient(rows, labels, rng.permutation(30), anchors=anchors)
    exact = value_and_gradient(rows, labels, None, anchors=anchors)
    np.testing.assert_allclose(sampled[0], exact[0], rtol=1e-5)
    np.testing.assert_allclose(sampled[1], exact[1], atol=1e-6)


def _every_sample(m, count):
    return np.array(list(combinations(range(m), count)))


def test_denominators_are_unbiased() -> None:
    """Their mean over all samples that there are is the exact denominator, to rounding."""
    rng = np.random.default_rng(4)
    unit = rng.normal(size=(9, 3))
    unit = jnp.asarray(unit / np.linalg.norm(unit, axis=1, keepdims=True), jnp.float32)
    contrast = Contrast(jnp.ones(9).at[2].set(0), 0.1, 1.0)
    exact = pairwise(unit, contrast, None, with_gradient=False).denominators

    def denominators(sample):
        return sampled_contrast(unit, contrast, sample, with_gradient=False).denominators

    for count in (3, 5, 8):
        every = jax.vmap(denominators)(_every_sample(9, count))
        assert np.abs(every - exact).max() > 0.1 * float(exact.max())  # a sample alone is off
        np.testing.assert_allclose(every.mean(axis=0), exact, rtol=1e-5)


def test_bias_falls_with_the_sample() -> None:
    """The value lies low, as Jensen says; bias of the value and gradient falls faster than 1/N."""
    rng = np.random.default_rng(5)
    rows = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    labels = rng.integers(0, 4, 12)
    value, gradient = value_and_gradient(rows, labels, None, temperature=0.5)
    biases = []
    for count in (3, 6, 9):
        each = jax.vmap(lambda s: value_and_gradient(rows, labels, s, temperature=0.5))
        values, gradients = each(_every_sample(12, count))
        biases.append((values.mean() - value, np.linalg.norm(gradients.mean(0) - gradient)))
    in_value, in_gradient = np.array(biases).T
    assert (in_value < 0).all()
    for bias in (-in_value, in_gradient):
        # Twice the sample, at most half of the bias: at N = m there is none.
        assert bias[1] < bias[0] / 2
        assert bias[2] < bias[0] / 3


def test_draws_are_fair() -> None:
    """Each item equally often, none twice; the mean of drawn denominators is the exact one."""
    m, count, draws = 60, 20, 3000
    keys = jax.random.split(jax.random.key(6), draws)
    samples = jax.jit(jax.vmap(lambda key: draw_sample(key, m, count)))(keys)
    assert samples.dtype == jnp.int32
    assert all(len(set(sample)) == count for sample in np.asarray(samples[:200]).tolist())
    times = np.bincount(np.asarray(samples).ravel(), minlength=m)
    share = count / m
    assert np.abs(times / draws - share).max() < 5 * np.sqrt(share * (1 - share) / draws)

    unit = np.random.default_rng(7).normal(size=(m, 8))
    unit = jnp.asarray(unit / np.linalg.norm(unit, axis=1, keepdims=True), jnp.float32)
    contrast = Contrast(jnp.ones(m), 0.1, 1.0)
    exact = pairwise(unit, contrast, None, with_gradient=False).denominators
    each = jax.jit(
        jax.vmap(lambda s: sampled_contrast(unit, contrast, s, with_gradient=False).denominators)
    )(samples)
    error = np.asarray(each.mean(0) - exact) / np.asarray(each.std(0) / np.sqrt(draws))
    assert np.abs(error).max() < 5  # standard errors
    assert np.asarray(each.std(0) / exact).min() > 0.1


def test_permuting_items_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    rows = jnp.asarray(rng.normal(size=(20, 4)), jnp.float32)
    labels = rng.integers(0, 5, 20)
    sample = rng.permutation(20)[:7]
    order = rng.permutation(20)
    place = np.argsort(order)  # where each item has gone
    value, gradient = value_and_gradient(rows, labels, sample)
    other_value, other = value_and_gradient(rows[order], labels[order], place[sample])
    np.testing.assert_allclose(other_value, value, rtol=1e-5)
    np.testing.assert_allclose(other, gradient[order], atol=1e-6)
    # The order of the sample is no matter either.
    np.testing.assert_allclose(value_and_gradient(rows, labels, sample[::-1])[0], value, rtol=1e-5)


def test_items_all_alone_give_nothing() -> None:
    rows = np.random.default_rng(9).normal(size=(6, 4)).astype(np.float32)
    value, gradient = value_and_gradient(rows, np.arange(6), np.array([0, 2, 5]))
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()


def test_a_close_pair_cannot_blow_up() -> None:
    """Items 0 and 1 are one, all others opposite: of 0's denominator the sample sees e⁻⁶⁶."""
    m = 12
    rows = jnp.where(jnp.arange(m)[:, None] < 2, 1.0, -1.0) * jnp.array([[1.0, 0.2]])
    rows = rows.at[2:, 1].add(1e-3 * jnp.arange(m - 2))
    options = {"temperature": MIN_TEMPERATURE, "base_temperature": MIN_TEMPERATURE}
    sample = np.array([0, 5, 7, 9])
    value, gradient = value_and_gradient(rows, np.zeros(m, int), sample, **options)
    assert np.isfinite(value)
    # A row is pushed by weights of at most 1 as an anchor, of (m − 1)/n as each k's negative, and
    # pulled by 2; the mean divides by m.
    most = (1 + 4 * 11 / 3 + 2) / MIN_TEMPERATURE / m
    assert np.linalg.norm(gradient, axis=1).max() < most
    expected = reference.sampled_gradient(rows, np.zeros(m, int), sample, anchors="all", **options)
    np.testing.assert_allclose(gradient, expected, atol=1e-3)


def test_beside_an_alignment() -> None:
    rng = np.random.default_rng(10)
    rows = jnp.asarray(rng.normal(size=(15, 3)) + 1, jnp.float32)
    labels, sample = rng.integers(0, 4, 15), rng.permutation(15)[:6]
    target = cosine_similarity(jnp.asarray(rng.normal(size=(15, 2)), jnp.float32))

    def together(e):
        return structural_loss(
            e,
            labels=labels,
            contrast=ContrastTerm(0.2, 0.07, "positive", 0.3),
            global_similarity=target,
            alignment=AlignmentTerm(0.4, 2.5),
            sample=sample,
        )

    def separate(e):
        options = {"temperature": 0.2, "base_temperature": 0.07, "anchors": "positive"}
        contrast = supervised_contrastive(e, labels, sample=sample, **options)
        return 0.3 * contrast + 2.5 * masked_frobenius(e, target, threshold=0.4)

    value, gradient = jax.value_and_grad(together)(rows)
    expected_value, expected = jax.value_and_grad(separate)(rows)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_float64_stays_float64() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(11)
        rows, labels, sample = rng.normal(size=(10, 3)), rng.integers(0, 3, 10), np.arange(4)
        options = {**REFERENCE, "anchors": "all"}
        value, gradient = value_and_gradient(rows, labels, sample, **options)
        assert value.dtype == gradient.dtype == jnp.float64
        expected = reference.sampled_gradient(rows, labels, sample, **options)
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_a_large_catalogue_needs_no_array_of_items_by_sample() -> None:
    m, d, count = 25_612, 32, 1024
    shapes = (
        jax.ShapeDtypeStruct((m, d), jnp.float32),
        jax.ShapeDtypeStruct((m,), jnp.int32),
        jax.ShapeDtypeStruct((count,), jnp.int32),
    )
    program = value_and_gradient.lower(*shapes).compile()
    assert f"{m},{count}" not in program.as_text()
    assert 0 < program.memory_analysis().temp_size_in_bytes < 32e6


def test_draws_of_all_items_or_more_are_the_exact_loss() -> None:
    key = jax.random.key(0)
    for count in (None, 10, 11):
        assert draw_sample(key, 10, count) is None
    assert len(draw_sample(key, 10, 9)) == 9


@pytest.mark.parametrize("count", [2, 0, -5])
def test_samples_too_small(count) -> None:
    with pytest.raises(InputError, match=f"contrast_sample={count} must be at least 3") as error:
        draw_sample(jax.random.key(0), 10, count)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sample", [np.arange(2), np.arange(7), np.zeros((3, 2), int)])
def test_samples_that_do_not_fit(sample) -> None:
    with pytest.raises(InputError, match=r"does not fit embeddings.*3 to 6 distinct") as error:
        supervised_contrastive(jnp.ones((6, 2)), jnp.zeros(6, int), sample=jnp.asarray(sample))
    assert "\n" not in str(error.value)
