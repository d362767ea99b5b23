"""Injected clicks: as many as asked, unseen, of nobody else's concern, and nothing else changed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data import (
    Problem,
    forbidden_items,
    inject_clicks,
    load_dataset,
    make_problem,
    synthetic,
)
from fedjax_rec.errors import InputError
from tests.problems import listed


def clicks_of(clean: Problem, noisy: Problem) -> list[set[int]]:
    """The items that each user got, having checked that none was lost or doubled."""
    added = []
    for user in range(clean.num_users):
        before, after = clean.train[user].tolist(), noisy.train[user].tolist()
        assert after == sorted(set(after))
        assert set(before) <= set(after)
        added.append(set(after) - set(before))
    return added


@settings(max_examples=25)
@given(
    st.sampled_from(["loo", "ratio"]),
    st.sampled_from(["leak-free", "published"]),
    st.none() | st.integers(1, 30),
    st.floats(0, 1),
    st.integers(0, 4),
)
def test_any_problem(split, protocol, clients, fraction, seed) -> None:
    dataset = synthetic(users=30, items=160, clusters=4, interactions_per_user=8, seed=seed)
    clean = make_problem(dataset, split=split, protocol=protocol, clients=clients, seed=seed)
    noisy = inject_clicks(clean, fraction, seed=seed)
    for user, added in enumerate(clicks_of(clean, noisy)):
        history = [*clean.train[user], *clean.validation[user], *clean.test[user]]
        assert not added & set(history)
        asked = fraction * len(clean.train[user])
        assert asked - 1 < len(added) < asked + 1
        assert added <= set(forbidden_items(noisy)[user].tolist())
    assert noisy.train.values.dtype == np.int32
    assert noisy.validation is clean.validation
    assert noisy.test is clean.test
    assert noisy.dataset is clean.dataset
    np.testing.assert_array_equal(noisy.client_starts, clean.client_starts)


def test_candidates_that_were_clicked_are_candidates_no_more() -> None:
    clean = make_problem(synthetic(users=40, items=160))
    noisy = inject_clicks(clean, 0.5)
    assert clean.evaluation_negatives is not None
    assert noisy.evaluation_negatives is not None
    lost = 0
    for before, after in zip(clean.evaluation_negatives, noisy.evaluation_negatives, strict=True):
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        for user, added in enumerate(clicks_of(clean, noisy)):
            kept = [item for item in before[user].tolist() if item not in added and item >= 0]
            assert after[user].tolist() == kept + [-1] * (99 - len(kept))
            lost += len(added & set(before[user].tolist()))
    assert lost > 0


def test_the_total_is_the_fraction_asked_for_though_users_are_small() -> None:
    # 2,000 users of 3 items at 5 %: 0.15 clicks each, which rounding would make none. 300 are
    # expected, with a deviation of at most √(2,000 · 0.15 · 0.85) = 16; six of them are allowed.
    clean = listed([[0, 1, 2]] * 2_000, 50)
    noisy = inject_clicks(clean, 0.05)
    assert abs(len(noisy.train.values) - 6_000 - 300) < 6 * 16


def test_clicks_are_uniform_over_unseen_items() -> None:
    # Each of 7 unseen items is among 2 clicks with chance 2/7; six standard errors.
    users = 10_000
    clean = listed([[0, 4]] * users, 10, test=[[5]] * users)
    noisy = inject_clicks(clean, 1.0)
    share = np.bincount(noisy.train.values, minlength=10) / users
    expected = [1, 2 / 7, 2 / 7, 2 / 7, 1, 0, 2 / 7, 2 / 7, 2 / 7, 2 / 7]
    np.testing.assert_allclose(share, expected, atol=6 * 0.5 / np.sqrt(users))


def test_seeded() -> None:
    clean = make_problem(synthetic(users=40, items=200), split="ratio")
    one, two, other = (inject_clicks(clean, 0.2, seed=seed) for seed in (1, 1, 2))
    assert clicks_of(clean, one) == clicks_of(clean, two)
    assert clicks_of(clean, one) != clicks_of(clean, other)


def test_fewer_clicks_are_among_more() -> None:
    clean = make_problem(synthetic(users=40, items=200), split="ratio")
    before = [set[int]()] * clean.num_users
    for fraction in (0.05, 0.1, 0.15, 1.0):
        after = clicks_of(clean, inject_clicks(clean, fraction))
        assert all(few <= many for few, many in zip(before, after, strict=True))
        before = after
    assert all(before)


@given(st.lists(st.integers(0, 19), unique=True, max_size=8), st.integers(0, 3))
def test_a_users_clicks_do_not_depend_on_other_users(others: list[int], seed: int) -> None:
    fixed = [[1, 5, 7, 12], [0, 2, 3]]
    clean = listed([*fixed, [4]], 20)
    changed = listed([*fixed, others], 20)
    one, two = (inject_clicks(problem, 0.7, seed=seed) for problem in (clean, changed))
    for user in range(2):
        assert one.train[user].tolist() == two.train[user].tolist()


def test_a_users_clicks_do_not_depend_on_the_clients() -> None:
    dataset = synthetic(users=50, items=200)
    whole = inject_clicks(make_problem(dataset), 0.3)
    part = inject_clicks(make_problem(dataset, clients=10, client_limit=3), 0.3)
    for user in range(15):
        assert part.train[user].tolist() == whole.train[user].tolist()


def test_none_asked_for_is_none() -> None:
    clean = make_problem(synthetic(users=20, items=120))
    assert inject_clicks(clean, 0.0) is clean


def test_a_user_without_training_items_gets_none() -> None:
    noisy = inject_clicks(listed([[], [0, 1]], 9), 1.0)
    assert noisy.train[0].tolist() == []
    assert len(noisy.train[1]) == 4


def test_the_note_counts_them() -> None:
    clean = replace(listed([[0, 1], [2, 3, 4]], 30), notes=("first",))
    noisy = inject_clicks(clean, 1.0, seed=3)
    assert noisy.notes == (
        "first",
        "click noise 1: 5 random items that users never interacted with added to their 5 training "
        "interactions (seed 3)",
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range(fraction) -> None:
    with pytest.raises(InputError, match=r"must be from 0 to 1 \(0.1 is 10 %\)"):
        inject_clicks(listed([[0]], 5), fraction)


def test_a_bad_seed() -> None:
    with pytest.raises(InputError, match="seed=-1"):
        inject_clicks(listed([[0]], 5), 0.5, seed=-1)


def test_a_user_with_too_few_unseen_items() -> None:
    crowded = listed([[0], [0, 1, 2]], 7, test=[[], [3]])
    message = (
        "listed: user '1' has 3 items without an interaction, too few for 3 random clicks and a "
        "negative; use less click noise than 1, or remove the user"
    )
    with pytest.raises(InputError, match=message):
        inject_clicks(crowded, 1.0)
    inject_clicks(listed([[0], [0, 1, 2]], 8, test=[[], [3]]), 1.0)  # one more is enough


@pytest.mark.data
def test_ml_100k(data_dir) -> None:
    clean = make_problem(
        load_dataset(data_dir / "ml-100k-ratio" / "clients_100.npz"), split="ratio"
    )
    noisy = inject_clicks(clean, 0.1)
    # 943 users, each rounded by chance: a deviation of at most √943 / 2 = 15 clicks.
    assert abs(len(noisy.train.values) - 1.1 * 72_000) < 6 * 15
