"""RQFedRec's codes on the server: λ's schedule, how items are coded, what a recoding keeps."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.methods import recoding
from fedjax_rec.methods.codebook_fit import Channel, Channels, rebuild
from fedjax_rec.methods.recoding import Coding, codes_of, mixing_weight, recode
from fedjax_rec.server import (
    UnusedCodewordsWarning,
    hash_codes,
    reconstruct,
    residual_kmeans,
    residual_means,
)

ITEMS, DIM = 30, 6
CODING = Coding(distinct_codes=False, levels=2, codewords=5)
seeds = st.integers(0, 2**32 - 1)
same = np.testing.assert_array_equal


def drawn(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    return (scale * rng.normal(size=(ITEMS, DIM))).astype(np.float32)


def clustered(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items in five clusters far apart, each in two halves: their vectors, cluster and half."""
    rng = np.random.default_rng(seed)
    cluster, half = np.arange(ITEMS) % 5, np.arange(ITEMS) // 5 % 2
    vectors = 100 * np.eye(5, DIM)[cluster] + 0.01 * rng.normal(size=(ITEMS, DIM))
    vectors[:, 5] += 10 * half
    return vectors.astype(np.float32), np.stack([cluster, half], axis=1)


def assert_one_partition(a, b) -> None:
    """Two labellings that differ in names only."""
    assert len({*zip(a, b, strict=True)}) == len({*a}) == len({*b})


# λ ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "warmup", "weight"),
    [(0, 100, 0), (1, 100, 0.01), (50, 100, 0.5), (100, 100, 1), (101, 100, 1), (7, 1, 1)],
)
def test_the_mixing_weight_grows_to_one(trained, warmup, weight) -> None:
    assert mixing_weight(trained, warmup) == weight


@given(st.integers(0, 500), st.integers(1, 300))
def test_the_mixing_weight_is_the_share_of_the_warm_up(trained, warmup) -> None:
    assert mixing_weight(trained, warmup) == (trained / warmup if trained < warmup else 1)
    assert mixing_weight(trained + 1, warmup) >= mixing_weight(trained, warmup)


# Codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("components", [0, 5, 32])
def test_clusters_and_their_halves_are_found(components) -> None:
    vectors, truth = clustered()
    coding = dataclasses.replace(CODING, code_components=components)
    codes = codes_of(vectors, coding, seed=0)
    assert codes.shape == (ITEMS, 2)
    assert codes.dtype == np.uint8
    assert_one_partition(codes[:, 0].tolist(), truth[:, 0].tolist())
    # The second level has more codewords than halves: each of its own belongs to one half.
    second = codes[:, 1].tolist()
    assert len({*zip(second, truth[:, 1].tolist(), strict=True)}) == len({*second}) == 5


@given(seeds, st.sampled_from([0, 5]))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_items_is_no_part_of_their_codes(seed, components) -> None:
    coding = dataclasses.replace(CODING, levels=1, code_components=components)
    vectors, _ = clustered(seed)
    order = np.random.default_rng(seed).permutation(ITEMS)
    moved = codes_of(vectors[order], coding, seed=3)[:, 0]
    assert_one_partition(codes_of(vectors, coding, seed=3)[order, 0].tolist(), moved.tolist())


def test_without_components_the_vectors_themselves_are_coded() -> None:
    coding = dataclasses.replace(CODING, code_components=0)
    codes = residual_kmeans(drawn(), levels=2, codewords=5, seed=4)[1]
    same(codes_of(drawn(), coding, seed=4), codes)


def test_only_the_leading_components_are_coded() -> None:
    """Two columns tell the clusters; further ones, of less variance, must not matter."""
    rng = np.random.default_rng(0)
    cluster = np.arange(ITEMS) % 5
    vectors = np.zeros((ITEMS, DIM))
    angle = 2 * np.pi * cluster / 5
    vectors[:, :2] = 100 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vectors[:, 2:] = 40 * rng.normal(size=(ITEMS, DIM - 2))
    turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]  # no column is a component by itself
    coding = dataclasses.replace(CODING, levels=1)
    codes = [
        codes_of(vectors @ turn, dataclasses.replace(coding, code_components=count), seed=0)[:, 0]
        for count in (2, 0)
    ]
    assert_one_partition(codes[0].tolist(), cluster.tolist())
    with pytest.raises(AssertionError):  # the other columns do matter where all are coded
        assert_one_partition(codes[1].tolist(), cluster.tolist())


@pytest.mark.filterwarnings("ignore::fedjax_rec.server.UnusedCodewordsWarning")
def test_items_of_one_vector_get_codes_of_their_own() -> None:
    coding = dataclasses.replace(CODING, distinct_codes=True)
    vectors = np.repeat(np.eye(5, 4), 4, axis=0)  # five vectors, four times each, and 25 codes
    codes = codes_of(vectors, coding, seed=3)
    plain = codes_of(vectors, CODING, seed=3)
    assert len(np.unique(codes, axis=0)) == len(vectors) > len(np.unique(plain, axis=0))


def test_a_hash_looks_at_no_vector() -> None:
    coding = dataclasses.replace(CODING, codebook="hash")
    expected = hash_codes(ITEMS, levels=2, codewords=5, seed=7)
    for vectors in (drawn(0), np.full((ITEMS, 1), np.nan)):
        same(codes_of(vectors, coding, seed=7), expected)
    assert (codes_of(drawn(0), coding, seed=8) != expected).any()


def test_an_autoencoder_is_asked_for_the_same_codes(monkeypatch) -> None:
    asked = {}

    def record(vectors, **options):
        asked.update(options, vectors=vectors)
        return np.zeros((len(vectors), 2), np.uint8)

    monkeypatch.setattr(recoding, "rq_vae_codes", record)
    coding = dataclasses.replace(CODING, codebook="rq-vae")
    assert not codes_of(drawn(), coding, seed=9).any()
    same(asked.pop("vectors"), drawn())
    assert asked == {"levels": 2, "codewords": 5, "seed": 9}


@pytest.mark.parametrize("codewords", [4, 300])
def test_codes_are_the_smallest_integers(codewords) -> None:
    vectors = np.random.default_rng(0).normal(size=(310, 3))
    codes = codes_of(vectors, Coding(distinct_codes=False, levels=1, codewords=codewords), seed=0)
    assert codes.dtype == (np.uint8 if codewords == 4 else np.uint16)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (drawn()[:4], "codewords=5 for 4 items: lower codewords to 4"),
        (np.full((ITEMS, 2), np.nan), "finite"),
    ],
)
def test_vectors_that_cannot_be_coded(vectors, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        codes_of(vectors, CODING, seed=0)
    assert "\n" not in str(error.value)


# Recoding -----------------------------------------------------------------------------------------


@given(
    seeds, st.floats(0, 1, width=32), st.sampled_from([1, 4]), st.sampled_from([1e-3, 1.0, 50.0])
)
@settings(max_examples=25, deadline=None)
def test_items_move_by_the_fit_s_share(seed, weight, sweeps, scale) -> None:
    """Continuity: the mix of both channels moves by λ times the error of the collaborative fit."""
    coding = dataclasses.replace(CODING, recode_sweeps=sweeps)
    semantic, previous = drawn(seed, scale), drawn(seed + 1, scale)

    def whole(vectors: np.ndarray) -> Channel:
        """A channel that stands for these vectors: a codeword an item."""
        return Channel(vectors[None], np.arange(ITEMS)[:, None])

    channels = Channels(whole(semantic), whole(previous), np.float32(weight))
    before = np.asarray(rebuild(channels))
    made = recode(before, previous, coding, seed=0)
    remade = channels._replace(collaborative=Channel(made.codebook, made.codes))
    moved = np.linalg.norm(np.float64(rebuild(remade)) - before)
    # Each item is a float32 sum of scaled vectors, before and after: a few roundings of each.
    parts = [
        semantic,
        previous,
        *(book[code] for book, code in zip(made.codebook, made.codes.T, strict=True)),
    ]
    rounding = 8 * float(np.finfo(np.float32).eps * sum(np.linalg.norm(part) for part in parts))
    expected = weight * made.error * np.linalg.norm(previous)
    assert moved == pytest.approx(expected, rel=1e-4, abs=rounding)
    assert made.error < 1  # better than no codebook at all


def test_the_codebook_is_fitted_to_the_channel_and_the_codes_come_from_the_items() -> None:
    items, previous = drawn(0), drawn(1)
    made = recode(items, previous, CODING, seed=5)
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    same(made.codes, codes_of(unit, CODING, seed=5))
    same(made.codebook, residual_means(previous, made.codes, codewords=5))
    assert made.codebook.dtype == np.float32
    assert made.codebook.shape == (2, 5, DIM)


def test_codes_are_of_directions() -> None:
    """Popular items have long embeddings; what they are like is where these point."""
    lengths = 2.0 ** np.random.default_rng(0).integers(-6, 7, (ITEMS, 1))
    one = recode(drawn(), drawn(1), CODING, seed=5)
    other = recode(np.float32(lengths * drawn()), drawn(1), CODING, seed=5)
    same(one.codes, other.codes)
    same(one.codebook, other.codebook)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_more_sweeps_leave_no_more_error(seed) -> None:
    errors = [
        recode(
            drawn(seed), drawn(seed + 1), dataclasses.replace(CODING, recode_sweeps=sweeps), seed=0
        ).error
        for sweeps in (1, 2, 6)
    ]
    assert errors[0] * (1 + 1e-6) >= errors[1]
    assert errors[1] * (1 + 1e-6) >= errors[2]


def test_a_codeword_an_item_keeps_the_channel() -> None:
    coding = dataclasses.replace(CODING, codewords=ITEMS, code_components=0)
    with pytest.warns(UnusedCodewordsWarning, match="level 2: 29"):
        made = recode(drawn(), drawn(1), coding, seed=0)
    assert made.error < 1e-6
    np.testing.assert_allclose(reconstruct(made.codebook, made.codes), drawn(1), atol=1e-5)


def test_zero_items_and_a_channel_of_zeros_are_no_obstacle() -> None:
    items = drawn()
    items[::3] = 0
    made = recode(items, np.zeros((ITEMS, DIM), np.float32), CODING, seed=0)
    assert made.error == 0
    assert not made.codebook.any()
    assert len(np.unique(made.codes[::3], axis=0)) == 1


def test_one_seed_one_recoding() -> None:
    one, other = (recode(drawn(), drawn(1), CODING, seed=6) for _ in range(2))
    same(one.codes, other.codes)
    same(one.codebook, other.codebook)
    assert (recode(drawn(), drawn(1), CODING, seed=7).codes != one.codes).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels=0 must be at least 1"),
        ({"codewords": 0}, "codewords=0 must be at least 1"),
        ({"recode_every": 0}, "recode_every=0 must be at least 1"),
        ({"warmup": 0}, "warmup=0 must be at least 1"),
        ({"recode_sweeps": 0}, "recode_sweeps=0 must be at least 1"),
        ({"code_components": -1}, "code_components=-1 must be 0 or more"),
        ({"codebook": "kmeans"}, "codebook='kmeans'.*rq-kmeans"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        Coding(**options)
    assert "\n" not in str(error.value)
