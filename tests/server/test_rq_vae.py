"""RQ-VAE: codes that mean something, repeats, its gradient, dead codewords, bad input."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.server import hash_codes, reconstruct, residual_means, rq_vae, rq_vae_codes

SMALL = {"hidden": 32, "latent": 8, "steps": 150, "batch_size": 64}


def clustered(m: int = 400) -> np.ndarray:
    """Sums of one of 8 coarse and one of 8 finer centers, and noise."""
    rng = np.random.default_rng(0)
    coarse, fine = 3 * rng.normal(size=(8, 20)), rng.normal(size=(8, 20))
    noise = 0.1 * rng.normal(size=(m, 20))
    return coarse[rng.integers(0, 8, m)] + fine[rng.integers(0, 8, m)] + noise


def error(vectors: np.ndarray, codes: np.ndarray, codewords: int) -> float:
    """Share of the variance that codes leave, with codebooks by residual means."""
    rebuilt = reconstruct(residual_means(vectors, codes, codewords=codewords), codes)
    return float(np.sum((vectors - rebuilt) ** 2) / np.sum((vectors - vectors.mean(axis=0)) ** 2))


def test_levels_lower_the_error_and_most_codewords_are_used() -> None:
    vectors = clustered()
    codes = rq_vae_codes(vectors, levels=3, codewords=16, seed=0, **SMALL)
    assert codes.shape == (400, 3)
    assert codes.dtype == np.uint8
    assert all(len(set(codes[:, level])) >= 12 for level in range(3))
    one, all_levels = error(vectors, codes[:, :1], 16), error(vectors, codes, 16)
    assert all_levels < 0.5 * one
    by_chance = hash_codes(400, levels=3, codewords=16, seed=0)
    assert one < 0.3 * error(vectors, by_chance, 16)


def test_same_seed_same_codes() -> None:
    vectors = clustered(100)
    options = {"levels": 2, "codewords": 8} | SMALL
    codes = rq_vae_codes(vectors, seed=1, **options)
    np.testing.assert_array_equal(codes, rq_vae_codes(vectors, seed=1, **options))
    assert (codes != rq_vae_codes(vectors, seed=2, **options)).any()


def test_equal_vectors_are_no_obstacle() -> None:
    with pytest.warns(UserWarning, match="distinct residuals"):
        codes = rq_vae_codes(np.ones((5, 3)), levels=2, codewords=4, seed=0, steps=3)
    assert len(np.unique(codes, axis=0)) == 1


def test_the_loss_and_its_gradient_are_those_of_the_formula() -> None:
    """Linear algebra in float64 NumPy, with the stops put in by hand."""
    rng = np.random.default_rng(0)
    n, d, e, beta = 12, 5, 3, 0.25
    x = rng.normal(size=(n, d)).astype(np.float32)
    encoder, decoder = rq_vae._MLP(6, e), rq_vae._MLP(6, d)
    key = jax.random.key(0)
    parameters = rq_vae.Parameters(
        encoder.init(key, x),
        decoder.init(key, jnp.zeros((1, e))),
        jnp.asarray(rng.normal(size=(2, 4, e)), jnp.float32),
    )
    value, gradient = jax.value_and_grad(rq_vae._loss)(parameters, encoder, decoder, x, beta)

    latents = np.asarray(encoder.apply(parameters.encoder, x), float)
    books = np.asarray(parameters.codebooks, float)
    rest, expected_books, fit = latents, np.zeros_like(books), 0.0
    for level, book in enumerate(books):
        code = np.argmin(((rest[:, None] - book[None]) ** 2).sum(axis=2), axis=1)
        off = rest - book[code]
        fit += (1 + beta) * np.sum(off**2) / n
        np.add.at(expected_books[level], code, -2 * off / n)
        rest = off
    rebuilt = np.asarray(decoder.apply(parameters.decoder, jnp.float32(latents - rest)), float)
    assert float(value) == pytest.approx(np.sum((x - rebuilt) ** 2) / n + fit, rel=1e-4)
    np.testing.assert_allclose(gradient.codebooks, expected_books, rtol=1e-3, atol=1e-5)

    # Straight through: without commitment, the encoder is trained by the decoder's input gradient.
    def decoded(quantized):
        return jnp.sum((x - decoder.apply(parameters.decoder, quantized)) ** 2) / n

    pulled = jax.grad(decoded)(jnp.float32(latents - rest))
    _, backward = jax.vjp(lambda weights: encoder.apply(weights, x), parameters.encoder)
    (through,) = backward(pulled)
    without = jax.grad(rq_vae._loss)(parameters, encoder, decoder, x, 0.0).encoder
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), through, without
    )


def test_dead_codewords_move_to_items_and_living_ones_stay() -> None:
    data = jnp.asarray(clustered(50), jnp.float32)
    encoder = rq_vae._MLP(6, 4)
    weights = encoder.init(jax.random.key(0), data)
    latents = np.asarray(encoder.apply(weights, data))
    books = np.full((1, 5, 4), 1e6, np.float32)
    books[0, 2] = latents.mean(axis=0)
    before = rq_vae.Parameters(weights, None, jnp.asarray(books))
    after = np.asarray(rq_vae._revive(encoder, jax.random.key(1), before, data).codebooks)
    np.testing.assert_array_equal(after[0, 2], books[0, 2])
    for codeword in (0, 1, 3, 4):
        assert np.abs(latents - after[0, codeword]).max(axis=1).min() < 1e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 0}, "levels=0 must be 1 or more"),
        ({"codewords": 51}, "codewords=51 for 50 items: lower codewords to 50 or less"),
        ({"hidden": 0}, "hidden=0"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0 must be a positive number"),
        ({"commitment": -1.0}, "commitment=-1.0"),
        ({"lr": 1e30}, "diverged at lr=1e[+]30: lower lr"),
    ],
)
def test_bad_options(wrong, message) -> None:
    options = {"levels": 2, "codewords": 4, "seed": 0, "steps": 5} | wrong
    with pytest.raises(InputError, match=message):
        rq_vae_codes(clustered(50), **options)


def test_a_vector_that_is_not_finite() -> None:
    vectors = clustered(50)
    vectors[7, 0] = np.nan
    with pytest.raises(InputError, match="item 7 "):
        rq_vae_codes(vectors, levels=1, codewords=4, seed=0)


def test_examples() -> None:
    result = doctest.testmod(rq_vae)
    assert result.attempted > 0
    assert result.failed == 0
