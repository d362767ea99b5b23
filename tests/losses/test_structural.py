"""Both structural terms at once: the fused pass against the separate ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import (
    AlignmentTerm,
    ContrastTerm,
    cosine_similarity,
    masked_frobenius,
    structural_loss,
    supervised_contrastive,
)
from fedjax_rec.tiles import grid, pack
from tests.losses import paths, reference

CONTRAST = ContrastTerm(temperature=0.2, base_temperature=0.07, anchors="positive", weight=0.3)
ALIGNMENT = AlignmentTerm(threshold=0.4, weight=2.5)


def case(seed, m=11, d=3):
    rng = np.random.default_rng(seed)
    rows = jnp.asarray(rng.normal(size=(m, d)) + rng.normal(size=d), jnp.float32)
    other = jnp.asarray(rng.normal(size=(m, 2)), jnp.float32)
    return rows, jnp.asarray(rng.integers(0, 4, m)), cosine_similarity(other)


def fused(rows, labels, target):
    return structural_loss(
        rows, labels=labels, contrast=CONTRAST, global_similarity=target, alignment=ALIGNMENT
    )


def separate(rows, labels, target):
    contrast = supervised_contrastive(
        rows, labels, temperature=0.2, base_temperature=0.07, anchors="positive"
    )
    return 0.3 * contrast + 2.5 * masked_frobenius(rows, target, threshold=0.4)


@pytest.mark.parametrize("path", paths.PATHS)
def test_fused_is_the_sum_of_the_separate(monkeypatch, path) -> None:
    taken = paths.force(monkeypatch, path)
    value, gradient = jax.jit(jax.value_and_grad(fused))(*case(0))
    assert taken == {paths.PATHS[path].function}
    expected_value, expected = jax.jit(jax.value_and_grad(separate))(*case(0))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_fused_against_float64(seed) -> None:
    rows, labels, target = case(seed)
    if np.abs(np.asarray(cosine_similarity(rows)) - 0.4).min() < 1e-5:
        return
    value, gradient = jax.jit(jax.value_and_grad(fused))(rows, labels, target)
    labels = np.asarray(labels)
    options = {"temperature": 0.2, "base_temperature": 0.07, "anchors": "positive"}
    expected = 0.3 * reference.contrastive(rows, labels, **options)
    expected += 2.5 * reference.masked_frobenius(rows, target, threshold=0.4)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    exact = 0.3 * reference.contrastive_gradient(rows, labels, **options)
    exact += 2.5 * reference.masked_frobenius_gradient(rows, target, threshold=0.4)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(gradient * norm, exact * norm, rtol=1e-3, atol=2e-4)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_permuting_items_changes_nothing(seed) -> None:
    rows, labels, target = case(seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    permuted = fused(rows[order], labels[order], target[np.ix_(order, order)])
    np.testing.assert_allclose(permuted, fused(rows, labels, target), rtol=1e-4)


def test_without_terms_it_is_zero() -> None:
    assert float(structural_loss(jnp.ones((3, 2)))) == 0


def test_float64_stays_float64() -> None:
    with jax.enable_x64(True):
        rows, labels, target = (jnp.asarray(np.asarray(x)) for x in case(1))
        value, gradient = jax.value_and_grad(fused)(rows.astype(jnp.float64), labels, target)
        assert value.dtype == gradient.dtype == jnp.float64


def test_large_catalogues_need_no_square_array() -> None:
    """Issue: below 256 MB a client beyond M_g itself."""
    m, d = 12_454, 64
    shapes = (
        jax.ShapeDtypeStruct((m, d), jnp.float32),
        jax.ShapeDtypeStruct((m,), jnp.int32),
        jax.ShapeDtypeStruct(grid(m).shape, jnp.float32),
    )
    program = jax.jit(jax.value_and_grad(fused)).lower(*shapes).compile()
    assert f"{m},{m}" not in program.as_text()
    assert 0 < program.memory_analysis().temp_size_in_bytes < 64e6


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"contrast": ContrastTerm(weight=-1.0), "labels": jnp.zeros(3, int)}, "weight -1.0 must"),
        ({"alignment": AlignmentTerm(0.5, weight=-1.0)}, "alignment weight -1.0 must"),
        ({"contrast": ContrastTerm()}, "labels None do not fit"),
        ({"contrast": ContrastTerm(), "labels": jnp.zeros(2, int)}, r"labels \(2,\) do not fit"),
        ({"alignment": AlignmentTerm(0.5)}, "global similarity None does not fit"),
    ],
)
def test_wrong_arguments(options, names) -> None:
    with pytest.raises(InputError, match=names) as error:
        structural_loss(jnp.ones((3, 2)), **options)
    assert "\n" not in str(error.value)


def test_packed_and_dense_targets_agree(monkeypatch) -> None:
    paths.force(monkeypatch, "several tiles")
    rows, labels, target = case(2)
    np.testing.assert_array_equal(fused(rows, labels, pack(target)), fused(rows, labels, target))
