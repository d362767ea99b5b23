"""The fit of both codebooks to given items, against least squares and Adam in float64 NumPy."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.methods.codebook_fit import (
    Channel,
    Channels,
    CodebookFit,
    fit_codebooks,
    rebuild,
)
from tests.losses import reference

ITEMS, LEVELS, WORDS, DIM = 14, 2, 5, 3
UNUSED = WORDS - 1  # a codeword that no item of the tests has, in any level of any channel
# Few sets of options and few shapes, since each is compiled. LONG has more steps than unknowns.
JOINT, SEPARATE = (CodebookFit(fit=fit, fit_steps=7) for fit in ("joint", "separate"))
LONG = dataclasses.replace(JOINT, fit_steps=40)
ADAM = CodebookFit(fit="joint", fit_solver="adam", fit_steps=7, fit_lr=0.05)
SOLVERS = [JOINT, SEPARATE, ADAM]
fit = jax.jit(fit_codebooks, static_argnums=3)
seeds = st.integers(0, 2**32 - 1)
same = np.testing.assert_array_equal


class Case(NamedTuple):
    channels: Channels
    target: np.ndarray
    importance: np.ndarray


def drawn(seed: int = 0, weight: float = 0.3, levels: int = LEVELS) -> Case:
    """Random channels, items to fit them to, and counts; some items count nothing."""
    rng = np.random.default_rng(seed)

    def channel() -> Channel:
        book = rng.normal(size=(levels, WORDS, DIM)).astype(np.float32)
        return Channel(book, rng.integers(0, UNUSED, (ITEMS, levels)).astype(np.uint8))

    channels = Channels(channel(), channel(), np.float32(weight))
    target = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    return Case(channels, target, rng.integers(0, 4, ITEMS).astype(np.float32))


def books_of(channels: Channels) -> list[np.ndarray]:
    return [np.float64(c.codebook) for c in (channels.semantic, channels.collaborative)]


def shares_of(channels: Channels) -> tuple[float, float]:
    return 1 - float(channels.weight), float(channels.weight)


def recoded(channels: Channels, codes) -> Channels:
    """The same codebooks and λ, with other codes of the two channels."""
    semantic, collaborative = (
        channel._replace(codes=own) for channel, own in zip(channels[:2], codes, strict=True)
    )
    return Channels(semantic, collaborative, channels.weight)


def mixed(channels: Channels, books) -> np.ndarray:
    """(1 − λ)·s + λ·c in float64."""
    codes = channels.semantic.codes, channels.collaborative.codes
    parts = zip(shares_of(channels), books, codes, strict=True)
    return sum(share * reference.reconstruct(book, code) for share, book, code in parts)


def squared_error(case: Case, books) -> float:
    errors = mixed(case.channels, books) - case.target
    return float((case.importance[:, None] * errors**2).sum())


def least_squares(books, codes, shares, target, importance) -> list[np.ndarray]:
    """The books moved by the smallest change, over all of them, that fits best.

    A codeword's change counts by the importance of its items, whatever its channel's share.
    """
    columns = np.zeros((len(target), len(books), LEVELS, WORDS))
    for channel, (code, share) in enumerate(zip(codes, shares, strict=True)):
        for level in range(LEVELS):
            columns[np.arange(len(target)), channel, level, code[:, level]] = share
    matrix = columns.reshape(len(target), -1)
    rest = target - matrix @ np.concatenate([book.reshape(-1, DIM) for book in books])
    root = np.sqrt(np.float64(importance))[:, None]
    scale = np.sqrt(((root * (matrix != 0)) ** 2).sum(axis=0))
    unscaled = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    change, *_ = np.linalg.lstsq(root * matrix * unscaled, root * rest, rcond=1e-10)
    change *= unscaled[:, None]
    return [
        book + moved.reshape(book.shape)
        for book, moved in zip(books, np.split(change, len(books)), strict=True)
    ]


def close(found, expected, tolerance=2e-3) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@given(seeds, st.sampled_from([0.2, 0.5, 0.9]))
@settings(max_examples=25, deadline=None)
def test_joint_conjugate_gradients_against_least_squares(seed, weight) -> None:
    """The best fit, and of all best fits the nearest to where the codebooks stood."""
    channels, target, importance = case = drawn(seed, weight)
    codes = channels.semantic.codes, channels.collaborative.codes
    books, shares = books_of(channels), shares_of(channels)
    expected = least_squares(books, codes, shares, target, importance)
    found = fit(*case, LONG)
    for one, exact in zip(found, expected, strict=True):
        close(one, exact, 1e-2)
    assert squared_error(case, np.float64(found)) == pytest.approx(
        squared_error(case, expected), rel=1e-3, abs=1e-4
    )


@given(seeds, st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=25, deadline=None)
def test_separate_fits_are_each_channel_s_own(seed, weight) -> None:
    """Whatever λ is: each channel alone goes to the items; at 0 and 1 only the one that counts."""
    channels, target, importance = case = drawn(seed, weight)
    found = fit(*case, dataclasses.replace(SEPARATE, fit_steps=40))
    for book, channel, share in zip(found, channels[:2], shares_of(channels), strict=True):
        start = np.float64(channel.codebook)
        alone = least_squares([start], [channel.codes], [1], target, importance)[0]
        close(book, alone if share else start)


@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_joint_leaves_less_error_than_separate(weight) -> None:
    case = drawn(1, weight)
    joint, separate = fit(*case, LONG), fit(*case, dataclasses.replace(SEPARATE, fit_steps=40))
    before = squared_error(case, books_of(case.channels))
    assert squared_error(case, np.float64(joint)) < 0.9 * squared_error(case, np.float64(separate))
    assert squared_error(case, np.float64(separate)) < before


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_more_steps_never_leave_more_error(weight) -> None:
    case = drawn(2, weight)
    errors = [squared_error(case, books_of(case.channels))]
    for steps in (1, 7, 40):
        books = fit(*case, dataclasses.replace(JOINT, fit_steps=steps))
        errors.append(squared_error(case, np.float64(books)))
    assert errors[1] < errors[0]
    for more, fewer in zip(errors[1:], errors, strict=False):
        assert more <= fewer * (1 + 1e-5)


@given(seeds, st.sampled_from([0.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_steps_beyond_the_best_fit_change_nothing(seed, weight) -> None:
    """With one level the best fit takes a few steps; what is left to follow is rounding."""
    case = drawn(seed, weight, levels=1)
    few, many = (fit(*case, dataclasses.replace(JOINT, fit_steps=steps)) for steps in (20, 200))
    for one, other in zip(few, many, strict=True):
        close(one, other)


def adam(books, channels, target, importance, *, shares, steps, lr) -> list[np.ndarray]:
    """Adam on Σ_i a_i·‖v̂_i − v_i‖² / (d·Σ_i a_i), with torch's and optax's constants."""
    books = [book.copy() for book in books]
    first, second = ([np.zeros_like(b) for b in books] for _ in range(2))
    for step in range(1, steps + 1):
        items = sum(
            share * reference.reconstruct(book, channel.codes)
            for share, book, channel in zip(shares, books, channels, strict=True)
        )
        pull = 2 * importance[:, None] * (items - target) / (importance.sum() * DIM)
        for k, (share, channel) in enumerate(zip(shares, channels, strict=True)):
            gradient = np.zeros_like(books[k])
            for level in range(LEVELS):
                np.add.at(gradient[level], channel.codes[:, level], share * pull)
            first[k] = 0.9 * first[k] + 0.1 * gradient
            second[k] = 0.999 * second[k] + 0.001 * gradient**2
            mean, square = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            books[k] -= lr * mean / (np.sqrt(square) + 1e-8)
    return books


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("objective", ["joint", "separate"])
def test_adam_against_numpy(objective, weight) -> None:
    case = drawn(3, weight)
    channels, target, importance = case
    found = fit(*case, dataclasses.replace(ADAM, fit=objective))
    own = partial(adam, target=target, importance=importance, steps=7, lr=0.05)
    start, both, shares = books_of(channels), channels[:2], shares_of(channels)
    if objective == "joint" and 0 < weight < 1:
        expected = own(start, both, shares=shares)
    else:
        expected = [
            own([book], [channel], shares=[1.0])[0] if share else book
            for book, channel, share in zip(start, both, shares, strict=True)
        ]
    for one, exact in zip(found, expected, strict=True):
        close(one, exact, 1e-4)
    assert squared_error(case, np.float64(found)) < squared_error(case, start)


@pytest.mark.parametrize("options", SOLVERS)
def test_codewords_without_items_do_not_move(options) -> None:
    """Neither those that nobody has nor those whose items all count 0: to the last bit."""
    case = drawn(4)
    for book, channel in zip(fit(*case, options), case.channels[:2], strict=True):
        for level in range(LEVELS):
            used = np.isin(np.arange(WORDS), channel.codes[case.importance > 0, level])
            assert not used[UNUSED]
            same(np.asarray(book)[level, ~used], channel.codebook[level, ~used])
            assert (np.asarray(book)[level, used] != channel.codebook[level, used]).all()


@pytest.mark.parametrize("options", SOLVERS)
def test_nothing_to_fit_changes_nothing(options) -> None:
    channels, target, _ = drawn(5)
    for book, channel in zip(
        fit(channels, target, np.zeros(ITEMS, np.float32), options), channels[:2], strict=True
    ):
        same(book, channel.codebook)


@pytest.mark.parametrize("options", SOLVERS)
def test_items_that_fit_already_stay(options) -> None:
    """The residual is 0, or a rounding error: no 0/0 by the solver, and no step by its noise."""
    channels, _, importance = drawn(6)
    target = rebuild(channels)
    if options.fit == "separate":  # both channels can meet one target only if they are one
        channels = channels._replace(collaborative=channels.semantic)
        target = rebuild(channels)
    for book, channel in zip(fit(channels, target, importance, options), channels[:2], strict=True):
        assert np.isfinite(book).all()
        if options.fit_solver == "cg":  # Adam makes a full step of any gradient above 1e-8
            np.testing.assert_allclose(book, channel.codebook, atol=1e-5)


@pytest.mark.parametrize("options", SOLVERS)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_channel_without_weight_is_not_even_read(options, weight) -> None:
    """Filled with NaN, it comes back as it is, and the other one as without it."""
    channels, target, importance = drawn(7, weight)
    dead = 1 if weight == 0 else 0
    nan = np.full_like(channels[dead].codebook, np.nan)
    poisoned = channels._replace(**{Channels._fields[dead]: channels[dead]._replace(codebook=nan)})
    books, others = (
        fit(channels, target, importance, options),
        fit(poisoned, target, importance, options),
    )
    same(others[dead], nan)
    same(books[dead], channels[dead].codebook)
    same(others[1 - dead], books[1 - dead])
    assert (np.asarray(books[1 - dead]) != channels[1 - dead].codebook).any()


def padded(x: np.ndarray, value: float = 0) -> np.ndarray:
    """Rows of a value added, up to three an item."""
    return np.pad(x, [(0, 3 * ITEMS - len(x)), *[(0, 0)] * (x.ndim - 1)], constant_values=value)


@pytest.mark.parametrize("options", SOLVERS)
def test_an_item_that_counts_thrice_is_three_items(options) -> None:
    channels, target, importance = drawn(8)
    rows = np.repeat(np.arange(ITEMS), importance.astype(int))
    codes = [padded(channel.codes[rows]) for channel in channels[:2]]
    ones = padded(np.ones(len(rows), np.float32))
    found = fit(recoded(channels, codes), padded(target[rows]), ones, options)
    for one, other in zip(fit(channels, target, importance, options), found, strict=True):
        close(one, other, 1e-3)


@pytest.mark.parametrize("options", SOLVERS)
def test_only_ratios_of_counts_matter(options) -> None:
    channels, target, importance = drawn(8)
    scaled = fit(channels, target, 4 * importance, options)
    for one, other in zip(fit(channels, target, importance, options), scaled, strict=True):
        close(one, other, 1e-5)


@pytest.mark.parametrize("options", SOLVERS)
def test_rows_of_padding_change_nothing(options) -> None:
    channels, target, importance = drawn(9)

    codes = [padded(channel.codes, 2) for channel in channels[:2]]
    garbage = padded(target, 1e3)
    found = fit(recoded(channels, codes), garbage, padded(importance), options)
    for one, other in zip(fit(channels, target, importance, options), found, strict=True):
        close(one, other, 1e-5)


@partial(jax.jit, static_argnums=4)
def side_by_side(channels, codes, target, importance, options):
    def one(codes, target, importance):
        own = recoded(channels, codes)
        return fit_codebooks(own, target, importance, options)

    return jax.vmap(one)(codes, target, importance)


@pytest.mark.parametrize("options", SOLVERS)
def test_side_by_side_is_one_by_one(options) -> None:
    """Clients that share the codebooks and λ, with items, targets and counts of their own."""
    for weight in (0.0, 0.3, 1.0):
        cases = [drawn(seed, weight) for seed in (10, 11, 12)]
        shared = cases[0].channels
        codes = [tuple(channel.codes for channel in case.channels[:2]) for case in cases]
        rest = (np.stack([case[k] for case in cases]) for k in (1, 2))
        stacked = jax.tree.map(lambda *x: np.stack(x), *codes)
        together = side_by_side(shared, stacked, *rest, options)
        for client, case in enumerate(cases):
            alone = fit(recoded(shared, codes[client]), *case[1:], options)
            for one, all_ in zip(alone, together, strict=True):
                close(all_[client], one, 1e-4)


@given(seeds, st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=20, deadline=None)
def test_items_of_both_channels_against_float64(seed, weight) -> None:
    channels = drawn(seed, weight).channels
    close(jax.jit(rebuild)(channels), mixed(channels, books_of(channels)), 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "both"}, "fit='both'.*joint"),
        ({"fit_solver": "sgd"}, "fit_solver='sgd'.*cg, adam"),
        ({"fit_items": "all"}, "fit_items='all'.*each"),
        ({"fit_steps": 0}, "fit_steps=0 must be at least 1"),
        ({"fit_lr": 0.0}, "fit_lr=0.0 must be a positive number"),
        ({"fit_lr": float("nan")}, "fit_lr=nan must be a positive number"),
        ({"fit_lr": float("inf")}, "fit_lr=inf must be a positive number"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        CodebookFit(**options)
    assert "\n" not in str(error.value)
