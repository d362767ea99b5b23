"""The dense similarity matrix: what it is invariant to."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import cosine_similarity


def embeddings(seed, m=7, d=4):
    return np.random.default_rng(seed).normal(size=(m, d)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_rotation_and_scale_change_nothing(seed, scale) -> None:
    rows = embeddings(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(4, 4)))
    for center in (False, True):
        plain = cosine_similarity(jnp.asarray(rows), center=center)
        close(cosine_similarity(jnp.asarray(scale * rows @ rotation), center=center), plain)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_translation_changes_nothing_when_centered(seed) -> None:
    rows = embeddings(seed)
    shift = np.random.default_rng(seed + 1).normal(size=4).astype(np.float32)
    centered = cosine_similarity(jnp.asarray(rows), center=True)
    close(cosine_similarity(jnp.asarray(rows + shift), center=True), centered)
    assert np.abs(cosine_similarity(jnp.asarray(rows + 9)) - centered).max() > 0.01


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_permuting_items_permutes_both_sides(seed) -> None:
    rows = embeddings(seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    permuted = cosine_similarity(jnp.asarray(rows[order]), threshold=0.2)
    close(
        permuted,
        np.asarray(cosine_similarity(jnp.asarray(rows), threshold=0.2))[np.ix_(order, order)],
    )


def test_threshold_keeps_what_reaches_it() -> None:
    rows = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    similarity = np.asarray(cosine_similarity(rows, threshold=0.7))
    expected = np.zeros((4, 4))
    expected[1, 2] = expected[2, 1] = 0.8
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "threshold", "names"),
    [
        (jnp.ones(3), None, r"\[items, dim\], not of shape \(3,\)"),
        (jnp.ones((3, 2)), 1.01, "threshold=1.01"),
        (jnp.ones((3, 2)), float("nan"), "threshold=nan"),
    ],
)
def test_wrong_arguments(rows, threshold, names) -> None:
    with pytest.raises(InputError, match=names):
        cosine_similarity(rows, threshold=threshold)
