"""Codebooks against float64: items from codes, the two channels mixed, the fit and its gradient."""

import doctest
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.losses import (
    codebook,
    codebook_gradient,
    codebook_mse,
    mix,
    normal_product,
    reconstruct,
    sum_by_code,
)
from tests.losses import reference

jitted_gradient = jax.jit(codebook_gradient)
jitted_loss = jax.jit(jax.value_and_grad(codebook_mse))
jitted_reconstruct = jax.jit(reconstruct)
seeds = st.integers(0, 2**32 - 1)
# Compiled once a shape, so few shapes: one level, more levels than codewords, more than a uint8.
shapes = st.sampled_from([(1, 4, 3, 6), (3, 2, 5, 9), (2, 300, 1, 40)])


class Case(NamedTuple):
    codebook: np.ndarray
    codes: np.ndarray
    target: np.ndarray
    mask: np.ndarray


def drawn(seed, levels=3, words=4, dim=5, items=9, kept=0.6) -> Case:
    rng = np.random.default_rng(seed)
    return Case(
        rng.normal(size=(levels, words, dim)).astype(np.float32),
        rng.integers(0, words, (items, levels)).astype(np.min_scalar_type(words - 1)),
        rng.normal(size=(items, dim)).astype(np.float32),
        rng.random(items) < kept,
    )


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(seeds, shapes)
@settings(max_examples=40, deadline=None)
def test_reconstruction_and_its_transpose_against_float64(seed, shape) -> None:
    book, codes, target, _ = drawn(seed, *shape)
    items, pull = jax.vjp(lambda b: jitted_reconstruct(b, codes), book)
    assert items.dtype == jnp.float32
    close(items, reference.reconstruct(book, codes))
    # ⟨v, S(B)⟩ = ⟨Sᵀ(v), B⟩, and Sᵀ is what autodiff finds.
    summed = sum_by_code(target, codes, codewords=shape[1])
    close(pull(target)[0], summed)
    inner = (np.float64(target) * reference.reconstruct(book, codes)).sum()
    assert (np.float64(summed) * book).sum() == pytest.approx(inner, rel=1e-4, abs=1e-4)


@given(seeds, st.sampled_from([(1, 4, 3, 6), (3, 2, 5, 128), (2, 300, 1, 300)]))
@settings(max_examples=30, deadline=None)
def test_normal_product_against_its_parts(seed, shape) -> None:
    """Fewer items than a block holds, just as many, and some more than two of them."""
    book, codes, *_ = drawn(seed, *shape)
    weights = np.random.default_rng(seed).integers(0, 4, len(codes)).astype(np.float32)
    found = jax.jit(normal_product)(book, codes, weights)
    weighted = weights[:, None] * jnp.asarray(reference.reconstruct(book, codes), jnp.float32)
    summed = sum_by_code(weighted, codes, codewords=shape[1])
    np.testing.assert_allclose(found, summed, rtol=1e-4, atol=1e-3)


def test_normal_product_of_no_items() -> None:
    assert not normal_product(BOOK, CODES[:0], jnp.zeros(0)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32])
def test_any_integers_are_codes(dtype) -> None:
    """Codes of the third level are rows far beyond a uint8 of the table of all levels."""
    book, codes, *_ = drawn(0, words=100)
    np.testing.assert_array_equal(reconstruct(book, codes.astype(dtype)), reconstruct(book, codes))
    wide, wide_codes, *_ = drawn(1, words=256, items=400)
    assert wide_codes.dtype == np.uint8
    close(reconstruct(wide, wide_codes), reference.reconstruct(wide, wide_codes))


@given(seeds, shapes, st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_loss_and_gradient_against_float64(seed, shape, kept) -> None:
    case = drawn(seed, *shape, kept=kept)
    loss, gradient = jitted_gradient(*case)
    assert loss.shape == ()
    assert gradient.shape == case.codebook.shape
    close(loss, reference.codebook_mse(*case))
    expected = reference.codebook_gradient(*case) if case.mask.any() else 0
    close(gradient, np.broadcast_to(expected, gradient.shape))
    by_autodiff = jitted_loss(*case)
    close(by_autodiff[0], loss)
    close(by_autodiff[1], gradient)


def plain(book, codes, target, mask):
    items = sum(book[level][codes[:, level]] for level in range(len(book)))
    squares = (mask[:, None] * (items - target)) ** 2
    return squares.sum() / (jnp.maximum(mask.sum(), 1) * items.shape[1])


both_gradients = jax.jit(jax.grad(codebook_mse, argnums=(0, 2)))
plain_gradients = jax.jit(jax.grad(plain, argnums=(0, 2)))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_against_plain_autodiff_and_in_the_target_too(seed) -> None:
    case = drawn(seed)

    jax.tree.map(close, both_gradients(*case), plain_gradients(*case))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_items_does_not_matter(seed) -> None:
    case = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(case.codes))
    moved = jitted_gradient(case.codebook, case.codes[order], case.target[order], case.mask[order])
    jax.tree.map(close, moved, jitted_gradient(*case))


def test_what_the_mask_drops_has_no_say() -> None:
    case = drawn(3)
    kept = case.mask
    alone = codebook_gradient(case.codebook, case.codes[kept], case.target[kept])
    for other in (0.0, 7.0, np.nan, np.inf):
        padded = np.where(kept[:, None], case.target, np.float32(other))
        for function in (codebook_gradient, jax.value_and_grad(codebook_mse)):
            jax.tree.map(close, function(case.codebook, case.codes, padded, kept), alone)


@pytest.mark.parametrize("items", [0, 9])
def test_nothing_to_fit_is_zero_with_zero_gradient(items) -> None:
    book, codes, target, _ = drawn(4, items=items)
    masks = [np.zeros(items, bool)] + ([None] if items == 0 else [])
    for mask in masks:
        for function in (codebook_gradient, jax.value_and_grad(codebook_mse)):
            loss, gradient = function(book, codes, target, mask)
            assert float(loss) == 0
            np.testing.assert_array_equal(gradient, np.zeros_like(book))
    assert reconstruct(book, codes[:0]).shape == (0, 5)


def test_an_unused_codeword_stays() -> None:
    case = drawn(5, words=50)
    _, gradient = codebook_gradient(*case)
    for level in range(3):
        used = np.isin(np.arange(50), case.codes[case.mask, level])
        assert not np.asarray(gradient)[level, ~used].any()
        assert np.asarray(gradient)[level, used].any(axis=1).all()


def test_steps_down_the_gradient_fit_what_can_be_fitted() -> None:
    truth, codes, *_ = drawn(6, words=3, items=30)
    target = reconstruct(truth, codes)
    book = jnp.zeros_like(truth)
    for _ in range(300):
        _, gradient = jitted_gradient(book, codes, target)
        book = book - 4 * gradient
    # The items, that is: levels can trade a constant, so the codebook is not unique.
    np.testing.assert_allclose(reconstruct(book, codes), target, atol=1e-3)


def test_many_clients_side_by_side() -> None:
    cases = [drawn(seed) for seed in range(4)]
    stacked = Case(*map(np.stack, zip(*cases, strict=True)))
    for function in (codebook_gradient, jax.value_and_grad(codebook_mse)):
        losses, gradients = jax.jit(jax.vmap(function))(*stacked)
        for case, loss, gradient in zip(cases, losses, gradients, strict=True):
            expected = function(*case)
            close(loss, expected[0])
            close(gradient, expected[1])
    # One set of codes for all clients, as a broadcast has it.
    together = jax.vmap(reconstruct, in_axes=(0, None))(stacked.codebook, cases[0].codes)
    for case, items in zip(cases, together, strict=True):
        close(items, reference.reconstruct(case.codebook, cases[0].codes))


@given(seeds, st.floats(0, 1, width=32))
@settings(max_examples=40, deadline=None)
def test_mix_against_float64(seed, weight) -> None:
    s, c = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)
    expected = (1 - np.float64(weight)) * s + np.float64(weight) * c
    close(jax.jit(mix)(s, c, weight), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_at_an_end_the_other_channel_has_no_say(weight, compiled) -> None:
    function = jax.jit(mix) if compiled else mix
    taken = np.array([1.5, -0.0, 0.0, 3e38, np.float32(1e-45), -2.0], np.float32)
    for other in ([7, 7, 7, 7, 7, 7], [3e38, -3e38, np.nan, np.inf, -np.inf, -0.0]):
        other = np.array(other, np.float32)
        channels = (taken, other) if weight == 0 else (other, taken)
        found = np.asarray(function(*channels, jnp.float32(weight)))
        np.testing.assert_array_equal(found.view(np.uint32), taken.view(np.uint32))
        gradients = jax.grad(lambda s, c: function(s, c, jnp.float32(weight)).sum(), (0, 1))(
            *channels
        )
        np.testing.assert_array_equal(gradients, [np.full(6, 1 - weight), np.full(6, weight)])


BOOK = jnp.zeros((2, 4, 3))
CODES = jnp.zeros((5, 2), jnp.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reconstruct(BOOK[0], CODES), r"codebook must be \[levels, codewords, dim\]"),
        (lambda: reconstruct(BOOK[:, :0], CODES), r"not of shape \(2, 0, 3\)"),
        (lambda: reconstruct(BOOK, CODES[:, :1]), r"2 levels: they must be \(5, 2\)"),
        (lambda: reconstruct(BOOK, CODES[0]), r"int32 of shape \(2,\)"),
        (lambda: reconstruct(BOOK, CODES * 1.0), "integers, not float32"),
        (lambda: codebook_mse(BOOK, CODES, jnp.zeros((5, 2))), r"target .* must be \(5, 3\)"),
        (
            lambda: codebook_gradient(BOOK, CODES, jnp.zeros((5, 3)), jnp.ones(3, bool)),
            r"mask of shape \(3,\) does not fit: it must be \(5,\)",
        ),
        (lambda: sum_by_code(jnp.zeros((4, 3)), CODES, codewords=4), r"they must be \(5, dim\)"),
        (lambda: sum_by_code(jnp.zeros((5, 3)), CODES, codewords=0), "codewords=0"),
        (
            lambda: normal_product(BOOK, CODES, jnp.ones((5, 1))),
            r"weights of shape \(5, 1\) do not fit codes of shape \(5, 2\)",
        ),
        (lambda: mix(jnp.zeros(3), jnp.zeros(1), 0.5), r"one shape, not \(3,\) \(semantic\)"),
    ],
)
def test_what_does_not_fit(call, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_examples() -> None:
    result = doctest.testmod(codebook)
    assert result.attempted > 0
    assert result.failed == 0
