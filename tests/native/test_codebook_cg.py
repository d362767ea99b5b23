"""The native fit of codebooks: what it makes of items is what XLA's and least squares make."""

import jax
import numpy as np
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.losses.kernel_choice import use_kernel
from fedjax_rec.methods.codebook_fit import Channel, Channels, CodebookFit, fit_codebooks, rebuild
from fedjax_rec.native import require_compiler

try:
    require_compiler()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

ITEMS, LEVELS, WORDS = 40, 2, 6


def _channels(dim: int, weight: float):
    rng = np.random.default_rng(dim)
    channels = []
    for _ in range(2):
        codes = rng.integers(0, WORDS - 1, (ITEMS, LEVELS)).astype(np.uint8)  # the last: nobody's
        channels.append(Channel(rng.normal(size=(LEVELS, WORDS, dim)).astype(np.float32), codes))
    target = rng.normal(size=(ITEMS, dim)).astype(np.float32)
    importance = rng.integers(0, 4, ITEMS).astype(np.float32)
    return Channels(*channels, np.float32(weight)), target, importance


def _fit(*case, options: CodebookFit, kernel: str):
    with use_kernel(kernel):
        return jax.jit(lambda *c: fit_codebooks(*c, options))(*case)


# 64 columns are a block: fewer, exactly one, and a part of a second.
@pytest.mark.parametrize("dim", [3, 64, 70])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("fit", ["separate", "joint"])
def test_items_are_made_as_by_xlas_steps(fit, weight, dim) -> None:
    channels, target, importance = _channels(dim, weight)
    options = CodebookFit(fit=fit, fit_steps=5)
    made = {}
    for kernel in ("xla", "native"):
        books = _fit(channels, target, importance, options=options, kernel=kernel)
        fitted = channels._replace(
            semantic=channels.semantic._replace(codebook=books[0]),
            collaborative=channels.collaborative._replace(codebook=books[1]),
        )
        made[kernel] = np.asarray(rebuild(fitted))
        for book, old in zip(books, (channels.semantic, channels.collaborative), strict=True):
            np.testing.assert_array_equal(book[:, -1], old.codebook[:, -1])
    np.testing.assert_allclose(made["native"], made["xla"], rtol=1e-3, atol=1e-4)
    assert np.abs(made["native"] - np.asarray(rebuild(channels))).max() > 0.1


def test_to_the_end_it_is_least_squares() -> None:
    channels, target, importance = _channels(9, 0.0)
    books = _fit(channels, target, importance, options=CodebookFit(fit_steps=60), kernel="native")
    codes = channels.semantic.codes
    design = np.zeros((ITEMS, LEVELS * WORDS))
    for level in range(LEVELS):
        design[np.arange(ITEMS), level * WORDS + codes[:, level]] = 1
    root = np.sqrt(importance.astype(np.float64))[:, None]
    best = np.linalg.lstsq(root * design, root * target.astype(np.float64), rcond=None)[0]
    made = design @ np.asarray(books[0], np.float64).reshape(LEVELS * WORDS, -1)
    np.testing.assert_allclose((root * made), root * (design @ best), rtol=1e-3, atol=1e-3)


def test_without_items_nothing_moves() -> None:
    channels, target, _ = _channels(5, 0.3)
    nobody = np.zeros(ITEMS, np.float32)
    books = _fit(channels, target, nobody, options=CodebookFit(), kernel="native")
    np.testing.assert_array_equal(books[0], channels.semantic.codebook)
    np.testing.assert_array_equal(books[1], channels.collaborative.codebook)
