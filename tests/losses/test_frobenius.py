"""The masked Frobenius loss and its analytic gradient: float64, autodiff, edge cases, memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import cosine_similarity, masked_frobenius
from fedjax_rec.tiles import grid, pack
from tests.losses import paths, reference


@partial(jax.jit, static_argnames=("threshold", "center"))
def value_and_gradient(rows, target, **options):
    return jax.value_and_grad(partial(masked_frobenius, **options))(rows, target)


def catalogue(seed, m=9, d=4):
    """Embeddings of which some point alike, and a symmetric target."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, d)) + 1.5 * rng.normal(size=d)
    half = rng.uniform(-1, 1, (m, m))
    return rows.astype(np.float32), np.triu(half, 1) + np.triu(half, 1).T


@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([-0.5, 0.2, 0.5, 0.9]))
@settings(max_examples=40, deadline=None)
def test_value_and_gradient_against_float64(seed, threshold) -> None:
    rows, target = catalogue(seed)
    rows[seed % 9] = 0  # a row without a direction reaches no positive threshold
    cosines = np.asarray(cosine_similarity(jnp.asarray(rows)))
    if np.abs(cosines - threshold).min() < 1e-5:
        return  # on the threshold, float32 and float64 may disagree about the mask
    value, gradient = value_and_gradient(rows, target, threshold=threshold)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    expected = reference.masked_frobenius(rows, target, threshold=threshold)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    exact = reference.masked_frobenius_gradient(rows, target, threshold=threshold)
    np.testing.assert_allclose(gradient * norm, exact * norm, rtol=1e-3, atol=1e-4)


def test_the_reference_gradient_is_the_slope_of_the_reference() -> None:
    rows, target = catalogue(1)
    rows = rows.astype(np.float64)
    slope = np.zeros_like(rows)
    for at in np.ndindex(rows.shape):
        step = np.zeros_like(rows)
        step[at] = 1e-6
        ahead, behind = (
            reference.masked_frobenius(rows + sign * step, target, threshold=0.3)
            for sign in (1, -1)
        )
        slope[at] = (ahead - behind) / 2e-6
    exact = reference.masked_frobenius_gradient(rows, target, threshold=0.3)
    np.testing.assert_allclose(exact, slope, atol=1e-7)


@pytest.mark.parametrize("path", paths.PATHS)
@pytest.mark.parametrize("form", ["dense", "packed", "bfloat16"])
def test_every_path_against_autodiff_under_jit_and_vmap(monkeypatch, path, form) -> None:
    taken = paths.force(monkeypatch, path)
    rng = np.random.default_rng(2)
    rows = jnp.asarray(rng.normal(size=(3, 11, 3)), jnp.float32)
    target = jnp.asarray(catalogue(3, m=11)[1], jnp.float32)
    given_ = target if form == "dense" else pack(target)
    if form == "bfloat16":
        given_ = given_.astype(jnp.bfloat16)
        target = target.astype(jnp.bfloat16).astype(jnp.float32)

    def plain(embeddings):
        similarity = cosine_similarity(embeddings)
        mask = jax.lax.stop_gradient(similarity >= 0.4)
        return jnp.sum(jnp.where(mask, (similarity - target) ** 2, 0))

    ours = jax.value_and_grad(lambda e: masked_frobenius(e, given_, threshold=0.4))
    value, gradient = jax.jit(jax.vmap(ours))(rows)
    assert taken == {paths.PATHS[path].function}
    expected_value, expected = jax.jit(jax.vmap(jax.value_and_grad(plain)))(rows)
    np.testing.assert_allclose(value, expected_value, rtol=2e-5)
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    assert np.abs(gradient).max() > 0.1  # the paper's sample code has a gradient of zero


def test_hand_computed() -> None:
    """Three pairs, of which one reaches the threshold; both of its orders count."""
    rows = jnp.array([[3.0, 0.0], [0.6, 0.8], [0.0, -2.0]])  # cosines 0.6, 0, −0.8
    target = jnp.full((3, 3), 0.1)
    assert float(masked_frobenius(rows, target, threshold=0.5)) == pytest.approx(2 * 0.5**2)
    assert float(masked_frobenius(rows, target, threshold=0.7)) == 0


def test_at_rest_on_the_target() -> None:
    rows = jnp.asarray(catalogue(4)[0])
    value, gradient = value_and_gradient(rows, cosine_similarity(rows), threshold=0.2)
    assert float(value) < 1e-9
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_permuting_items_changes_nothing() -> None:
    rows, target = catalogue(5)
    order = np.random.default_rng(5).permutation(len(rows))
    value, gradient = value_and_gradient(rows, target, threshold=0.3)
    permuted = value_and_gradient(rows[order], target[np.ix_(order, order)], threshold=0.3)
    np.testing.assert_allclose(permuted[0], value, rtol=1e-5)
    np.testing.assert_allclose(permuted[1], gradient[order], atol=1e-5)


def test_centered_it_does_not_see_translations() -> None:
    rows, target = catalogue(6)
    moved = rows + np.array([3.0, -2.0, 0.5, 1.0], np.float32)
    value, gradient = value_and_gradient(rows, target, threshold=0.3, center=True)
    again = value_and_gradient(moved, target, threshold=0.3, center=True)
    np.testing.assert_allclose(again[0], value, rtol=1e-4)
    np.testing.assert_allclose(again[1], gradient, atol=1e-4)
    np.testing.assert_allclose(np.sum(gradient, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 64e6), (jnp.bfloat16, 256e6)])
def test_large_catalogues_need_no_square_array(dtype, limit) -> None:
    """The CPU backend copies the bits of a bfloat16 target once; it must not widen them."""
    m, d = 12_454, 64
    shapes = (
        jax.ShapeDtypeStruct((m, d), jnp.float32),
        jax.ShapeDtypeStruct(grid(m).shape, dtype),
    )
    loss = jax.value_and_grad(partial(masked_frobenius, threshold=0.5))
    program = jax.jit(loss).lower(*shapes).compile()
    assert f"{m},{m}" not in program.as_text()
    assert 0 < program.memory_analysis().temp_size_in_bytes < limit


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"threshold": -1.0}, "threshold=-1.0 must be above -1 and at most 1"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"target": jnp.zeros((4, 4))}, r"similarity \(4, 4\) does not fit embeddings \(3, 2\)"),
        ({"embeddings": jnp.ones(3)}, r"embeddings must be \[items, dim\], not of shape \(3,\)"),
    ],
)
def test_wrong_arguments(wrong, names) -> None:
    given_ = {
        "embeddings": jnp.ones((3, 2)),
        "target": jnp.zeros((3, 3)),
        "threshold": 0.5,
        **wrong,
    }
    with pytest.raises(InputError, match=names) as error:
        masked_frobenius(given_["embeddings"], given_["target"], threshold=given_["threshold"])
    assert "\n" not in str(error.value)
