"""Residual quantization: error, order, exactness, unused codewords, means, bad input."""

import doctest
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import (
    UnusedCodewordsWarning,
    quantize,
    reconstruct,
    residual_kmeans,
    residual_means,
)

SEEDS = st.integers(0, 2**32 - 1)


def errors(vectors, codebooks, codes) -> np.ndarray:
    """Σ ‖v − reconstruction‖² with no level, one level, two, …; float64, by the formula."""
    rest, found = np.asarray(vectors, float), []
    for level, codebook in enumerate(codebooks):
        found.append(np.sum(rest**2))
        rest = rest - codebook[codes[:, level]]
    return np.array([*found, np.sum(rest**2)])


def tied_vectors(seed: int, m: int, d: int) -> np.ndarray:
    """Random vectors on a coarse grid, some of them equal: ties and duplicates are common."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (m, d)).astype(np.float32) * rng.choice([0.5, 3.0])


@given(SEEDS, st.integers(1, 60), st.integers(1, 5), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore::fedjax_rec.server.UnusedCodewordsWarning")
def test_the_error_never_rises(seed, m, d, mini_batch, tied) -> None:
    rng = np.random.default_rng(seed)
    vectors = tied_vectors(seed, m, d) if tied else rng.normal(size=(m, d)) + 3
    codewords = int(rng.integers(1, m + 1))
    codebooks, codes = residual_kmeans(
        vectors, levels=4, codewords=codewords, seed=seed, mini_batch=mini_batch
    )
    assert codebooks.shape == (4, codewords, d)
    assert codebooks.dtype == np.float32
    assert codes.shape == (m, 4)
    error = errors(vectors, codebooks, codes)
    assert (np.diff(error) <= 1e-6 * error[0]).all()
    distinct = len(np.unique(np.float32(vectors), axis=0))
    if codewords >= distinct:
        assert error[1] <= 1e-12 * error[0]
        np.testing.assert_array_equal(reconstruct(codebooks, codes), np.float32(vectors))
    elif error[0] > 0:
        assert error[1] < error[0]


@pytest.mark.parametrize("mini_batch", [False, True])
def test_every_level_of_real_size_lowers_the_error(mini_batch) -> None:
    vectors = np.random.default_rng(0).normal(size=(2_000, 16))
    codebooks, codes = residual_kmeans(
        vectors, levels=3, codewords=64, seed=0, mini_batch=mini_batch
    )
    error = errors(vectors, codebooks, codes)
    assert (error[1:] < 0.8 * error[:-1]).all()
    assert all(len(set(codes[:, level])) == 64 for level in range(3))


@pytest.mark.parametrize("mini_batch", [False, True])
def test_codes_are_the_nearest_codewords(mini_batch) -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 4))
    codebooks, codes = residual_kmeans(
        vectors, levels=2, codewords=20, seed=0, mini_batch=mini_batch
    )
    rest = np.float32(vectors)
    for level in range(2):
        distances = np.linalg.norm(rest[:, None] - codebooks[level][None], axis=2)
        own = distances[np.arange(300), codes[:, level]]
        assert (own <= distances.min(axis=1) + 1e-6).all()
        rest = rest - codebooks[level][codes[:, level]]


@given(SEEDS, st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
@pytest.mark.filterwarnings("ignore::fedjax_rec.server.UnusedCodewordsWarning")
def test_the_order_of_the_items_is_no_part_of_the_result(seed, mini_batch, tied) -> None:
    rng = np.random.default_rng(seed)
    vectors = tied_vectors(seed, 80, 3) if tied else rng.normal(size=(80, 3))
    options = {"levels": 3, "codewords": 9, "seed": seed, "mini_batch": mini_batch}
    codebooks, codes = residual_kmeans(vectors, **options)
    order = rng.permutation(80)
    other_books, other_codes = residual_kmeans(vectors[order], **options)
    np.testing.assert_array_equal(other_codes, codes[order])  # not even relabelled
    np.testing.assert_array_equal(other_books, codebooks)


def test_planted_levels_are_found() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = rng.integers(0, 5, 400), rng.integers(0, 4, 400)
    first, second = 20 * np.eye(9)[:5], 2 * np.eye(9)[5:]
    _, codes = residual_kmeans(first[coarse] + second[fine], levels=2, codewords=5, seed=0)
    assert nmi(codes[:, 0], coarse) == pytest.approx(1)
    # Within a coarse cluster the second code tells the fine groups apart.
    for group in range(5):
        assert len(set(zip(codes[coarse == group, 1], fine[coarse == group], strict=True))) == 4


@pytest.mark.parametrize(("codewords", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_codes_have_the_smallest_type(codewords, dtype) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 2))
    _, codes = residual_kmeans(vectors, levels=1, codewords=codewords, seed=0)
    assert codes.dtype == dtype
    assert codes.max() == codewords - 1


@pytest.mark.parametrize("mini_batch", [False, True])
def test_same_seed_same_codes_under_any_thread_limit(mini_batch) -> None:
    vectors = np.random.default_rng(0).normal(size=(1_500, 16))
    options = {"levels": 2, "codewords": 30, "mini_batch": mini_batch}
    with threadpool_limits(1):
        codebooks, codes = residual_kmeans(vectors, seed=3, **options)
    with threadpool_limits(2):
        again_books, again = residual_kmeans(vectors, seed=np.int64(3), **options)
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_array_equal(codebooks, again_books)
    assert (codes != residual_kmeans(vectors, seed=4, **options)[1]).any()


def test_large_problems_go_by_mini_batch(monkeypatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(3_000, 4))
    options = {"levels": 1, "codewords": 50, "seed": 0}
    full, batches = (residual_kmeans(vectors, **options, mini_batch=b)[1] for b in (False, True))
    assert (full != batches).any()
    np.testing.assert_array_equal(residual_kmeans(vectors, **options)[1], full)
    monkeypatch.setattr(quantize, "FULL_UP_TO", 3_000 * 4 * 50 - 1)
    np.testing.assert_array_equal(residual_kmeans(vectors, **options)[1], batches)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_empty_clusters_never_lose_a_codeword(seed) -> None:
    """k-means at its worst: all centers but one far away from every item."""
    vectors = np.random.default_rng(seed).normal(size=(40, 3))

    def useless(rows, weights, codewords, rng, mini_batch):
        centers = np.full((codewords, rows.shape[1]), 1e6, np.float32)
        centers[0] = rows.mean(axis=0)
        return centers

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(quantize, "_fit", useless)
        warnings.simplefilter("error")
        codebooks, codes = residual_kmeans(vectors, levels=2, codewords=12, seed=0)
    assert all(set(codes[:, level]) == set(range(12)) for level in range(2))
    error = errors(vectors, codebooks, codes)
    assert (np.diff(error) < 0).all()


def test_unused_codewords_are_zero_and_told_once() -> None:
    vectors = np.repeat([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], 4, axis=0)
    with pytest.warns(UnusedCodewordsWarning) as told:
        codebooks, codes = residual_kmeans(vectors, levels=2, codewords=5, seed=0)
    (warning,) = told
    assert "5 codewords" in str(warning.message)
    assert "level 1: 2, level 2: 4" in str(warning.message)
    assert warning.filename == __file__
    for level in range(2):
        unused = sorted(set(range(5)) - set(codes[:, level]))
        assert len(unused) == (2, 4)[level]
        np.testing.assert_array_equal(codebooks[level, unused], 0)
    np.testing.assert_array_equal(reconstruct(codebooks, codes), vectors)


def test_as_many_codewords_as_distinct_vectors_is_exact_and_quiet() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    twice = np.concatenate([vectors, vectors])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codebooks, codes = residual_kmeans(twice, levels=1, codewords=20, seed=0)
    np.testing.assert_array_equal(reconstruct(codebooks, codes), twice)
    assert len(set(codes[:, 0])) == 20


@pytest.mark.parametrize("exponent", [-60, 50])
def test_codes_do_not_depend_on_the_scale(exponent) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    options = {"levels": 3, "codewords": 8, "seed": 0}
    codebooks, codes = residual_kmeans(vectors, **options)
    scaled_books, scaled = residual_kmeans(np.ldexp(vectors, exponent), **options)
    np.testing.assert_array_equal(scaled, codes)
    np.testing.assert_array_equal(scaled_books, np.ldexp(codebooks, exponent))


def test_vectors_are_left_as_they_were() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    before = vectors.copy()
    _, codes = residual_kmeans(vectors, levels=2, codewords=3, seed=0)
    residual_means(vectors, codes, codewords=3)
    np.testing.assert_array_equal(vectors, before)


def test_reconstruction_by_hand() -> None:
    codebooks = np.array([[[10.0, 1.0], [20.0, 2.0]], [[0.5, 0.0], [0.25, 4.0]]], np.float32)
    codes = np.array([[0, 0], [1, 1], [0, 1]], np.uint8)
    found = reconstruct(codebooks, codes)
    np.testing.assert_array_equal(found, [[10.5, 1], [20.25, 6], [10.25, 5]])
    assert found.dtype == np.float32


@given(SEEDS, st.integers(1, 40), st.integers(1, 3), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_means_are_those_of_the_formula_and_sweeps_lower_the_error(
    seed, m, levels, codewords, sweeps
) -> None:
    rng = np.random.default_rng(seed)
    targets, codes = rng.normal(size=(m, 3)), rng.integers(0, codewords, (m, levels))
    found = residual_means(targets, codes, codewords=codewords, sweeps=sweeps)
    assert found.dtype == np.float32

    expected = np.zeros((levels, codewords, 3))
    for _ in range(sweeps):
        for level in range(levels):
            others = [k for k in range(levels) if k != level]
            rest = targets - sum((expected[k][codes[:, k]] for k in others), start=np.zeros((m, 3)))
            for code in range(codewords):
                members = codes[:, level] == code
                expected[level, code] = rest[members].mean(axis=0) if members.any() else 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    further = residual_means(targets, codes, codewords=codewords, sweeps=sweeps + 1)
    before, after = (errors(targets, books, codes)[-1] for books in (found, further))
    assert after <= before + 1e-6


def test_many_sweeps_reach_least_squares() -> None:
    rng = np.random.default_rng(0)
    targets, codes = rng.normal(size=(60, 2)), rng.integers(0, 4, (60, 3))
    design = np.eye(4)[codes].reshape(60, 12)
    best = np.sum((targets - design @ np.linalg.lstsq(design, targets)[0]) ** 2)
    once, often = (
        errors(targets, residual_means(targets, codes, codewords=4, sweeps=s), codes)[-1]
        for s in (1, 100)
    )
    assert often == pytest.approx(best, rel=1e-5)
    assert once > 1.001 * best


def test_means_over_the_codes_of_kmeans_are_its_codebooks() -> None:
    centers = 10 * np.random.default_rng(0).normal(size=(5, 3))
    vectors = centers[np.arange(100) % 5] + np.random.default_rng(1).normal(size=(100, 3)) * 0.1
    codebooks, codes = residual_kmeans(vectors, levels=1, codewords=5, seed=0)
    np.testing.assert_allclose(residual_means(vectors, codes, codewords=5), codebooks, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": 0}, "levels=0 must be 1 or more"),
        ({"codewords": 0}, "codewords=0 must be 1 or more"),
        ({"codewords": 7}, "codewords=7 for 6 items: lower codewords to 6 or less"),
        ({"vectors": np.full((6, 2), np.nan)}, "item 0 "),
        ({"vectors": np.diag([1, 1, 1, 1, 1e39, 1])}, "item 4 "),  # infinite in float32
        ({"vectors": np.zeros(6)}, "shape"),
    ],
)
def test_residual_kmeans_refuses(wrong, message) -> None:
    options = {"vectors": np.eye(6), "levels": 1, "codewords": 2, "seed": 0} | wrong
    with pytest.raises(InputError, match=message) as raised:
        residual_kmeans(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": np.zeros((3, 1), int)}, r"codes \[3, 1\] for 4 targets"),
        ({"codes": np.zeros(4, int)}, r"codes \[4\] for 4 targets"),
        ({"codes": np.zeros((4, 0), int)}, "levels=0"),
        ({"codes": np.full((4, 1), 2)}, "item 0 has code 2 at level 1: .* from 0 to 1"),
        ({"codes": np.array([[0, 0], [0, 0], [1, -1], [0, 0]])}, "item 2 has code -1 at level 2"),
        ({"codes": np.zeros((4, 1))}, "integers, not float64"),
        ({"sweeps": 0}, "sweeps=0"),
        ({"targets": np.full((4, 2), np.inf)}, "item 0 "),
    ],
)
def test_residual_means_refuses(wrong, message) -> None:
    options = {"targets": np.eye(4), "codes": np.zeros((4, 1), int), "codewords": 2} | wrong
    with pytest.raises(InputError, match=message):
        residual_means(**options)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((4, 2), int), "do not fit"),
        (np.zeros(4, int), "do not fit"),
        (np.full((4, 1), 3), "item 0 has code 3 at level 1"),
    ],
)
def test_reconstruct_refuses(codes, message) -> None:
    with pytest.raises(InputError, match=message):
        reconstruct(np.zeros((1, 3, 2)), codes)


def test_examples() -> None:
    result = doctest.testmod(quantize)
    assert result.attempted > 0
    assert result.failed == 0
