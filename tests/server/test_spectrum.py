"""Eigenvectors against what they are defined by, and the law of the mean noise."""

import numpy as np
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.server import add_mean_laplace, eigenbasis, leading_eigenvectors, spectrum


def gram(items: int = 60, rank: int = 5) -> np.ndarray:
    factor = np.random.default_rng(4).normal(size=(items, rank)) * [5, 4, 3, 2, 1]
    return (factor @ factor.T).astype(np.float32)


def test_eigenbasis_rebuilds_the_matrix() -> None:
    matrix = gram()
    values, vectors = eigenbasis(matrix)
    assert values.dtype == vectors.dtype == np.float32
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(60), atol=1e-6)
    np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, rtol=1e-5, atol=1e-3)


def test_leading_eigenvectors_by_either_way(monkeypatch) -> None:
    exact = leading_eigenvectors(gram(), 5)
    monkeypatch.setattr(spectrum, "_SMALL", 10)
    iterated = leading_eigenvectors(gram(), 5)
    np.testing.assert_array_equal(iterated, leading_eigenvectors(gram(), 5))
    np.testing.assert_allclose(np.abs((exact * iterated).sum(axis=0)), 1, atol=1e-5)
    strength = np.einsum("ir,ij,jr->r", exact, gram(), exact)
    assert (np.diff(strength) < 0).all()


@pytest.mark.parametrize("count", [0, 61])
def test_more_eigenvectors_than_there_are(count) -> None:
    with pytest.raises(InputError, match=rf"{count} leading eigenvectors of 60 items"):
        leading_eigenvectors(gram(), count)


@pytest.mark.parametrize("clients", [1, 3, 40])
def test_mean_noise_has_the_law_of_the_mean(clients) -> None:
    """Mean 0, variance 2δ²/K and kurtosis 3 + 3/K, as K averaged draws have."""
    items, scale = 400, 0.5
    rng = np.random.default_rng(clients)
    noise = np.zeros((items, items), np.float32)
    add_mean_laplace(noise, scale=scale, clients=clients, rng=rng)
    np.testing.assert_array_equal(noise, noise.T)

    count = items * (items + 1) // 2
    drawn = rng.laplace(0, scale, (clients, count)).mean(axis=0)
    variance = 2 * scale**2 / clients
    for values in (noise[np.triu_indices(items)].astype(float), drawn):
        assert abs(values.mean()) < 5 * np.sqrt(variance / count)
        assert values.var() == pytest.approx(variance, rel=0.05)
        fourth = (values**4).mean() / values.var() ** 2
        assert fourth == pytest.approx(3 + 3 / clients, rel=0.1)
    assert noise.diagonal().var() == pytest.approx(variance, rel=0.5)
    off = noise[np.triu_indices(items, 1)]
    assert abs(np.corrcoef(off[:-1], off[1:])[0, 1]) < 0.02  # pairs are independent


def test_noise_is_added_in_blocks_of_rows(monkeypatch) -> None:
    from fedjax_rec.server import laplace_mean

    monkeypatch.setattr(laplace_mean, "_ROWS", 16)
    matrix = gram().copy()
    add_mean_laplace(matrix, scale=0.1, clients=2, rng=np.random.default_rng(0))
    noise = matrix - gram()
    np.testing.assert_allclose(noise, noise.T, atol=1e-6)
    assert (noise != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0, "clients": 2}, "laplace=-1.0"),
        ({"scale": 1.0, "clients": 0}, "0 clients"),
    ],
)
def test_noise_that_makes_no_sense(options, message) -> None:
    with pytest.raises(InputError, match=message):
        add_mean_laplace(gram(), rng=np.random.default_rng(0), **options)
