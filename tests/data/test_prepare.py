"""Problems: nothing held out is trained on, clients are neighbours, protocols are kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data import (
    PUBLISHED_NOTE,
    Dataset,
    Problem,
    forbidden_items,
    load_dataset,
    make_problem,
    synthetic,
)
from fedjax_rec.errors import InputError


def items_of(dataset: Dataset, user: int) -> set[int]:
    return set(dataset.item[dataset.user == user].tolist())


def check(problem: Problem) -> None:
    """What holds for every problem."""
    parts = (problem.train, problem.validation, problem.test)
    assert all(len(part) == problem.num_users for part in parts)
    assert problem.client_starts[0] == 0
    assert problem.client_starts[-1] == problem.num_users
    assert (problem.users_per_client > 0).all()
    avoided = forbidden_items(problem)
    for user, source in enumerate(problem.user_index.tolist()):
        train, validation, test = (part[user].tolist() for part in parts)
        history = items_of(problem.dataset, source)
        assert sorted(train + validation + test) == sorted(history)
        assert train == sorted(train)
        assert len(train) > 0
        expected = train if problem.protocol == "leak-free" else sorted(history)
        assert avoided[user].tolist() == expected
        if problem.evaluation_negatives is not None:
            assert len(validation) == len(test) == 1
            for drawn in problem.evaluation_negatives:
                real = drawn[user][drawn[user] >= 0].tolist()
                assert len(set(real)) == len(real) == min(99, problem.num_items - len(history))
                assert not set(real) & history


@settings(max_examples=25)
@given(
    st.sampled_from(["loo", "ratio"]),
    st.sampled_from(["leak-free", "published"]),
    st.none() | st.integers(1, 30),
    st.integers(10, 140),
    st.integers(0, 4),
)
def test_any_problem(split, protocol, clients, items, seed) -> None:
    dataset = synthetic(users=30, items=items, clusters=4, interactions_per_user=5, seed=seed)
    problem = make_problem(dataset, split=split, protocol=protocol, clients=clients, seed=seed)
    check(problem)
    assert problem.num_clients == (clients or 30)
    assert (PUBLISHED_NOTE in problem.notes) == (protocol == "published")


def test_candidates_are_seeded_and_val_and_test_differ() -> None:
    dataset = synthetic(users=40, items=250)
    one, two = make_problem(dataset, seed=1), make_problem(dataset, seed=1)
    other = make_problem(dataset, seed=2)
    assert one.evaluation_negatives is not None
    assert two.evaluation_negatives is not None
    assert other.evaluation_negatives is not None
    np.testing.assert_array_equal(one.evaluation_negatives, two.evaluation_negatives)
    assert (one.evaluation_negatives[0] != one.evaluation_negatives[1]).any()
    assert (one.evaluation_negatives[1] != other.evaluation_negatives[1]).any()


def test_a_limit_changes_nothing_for_those_who_stay() -> None:
    dataset = synthetic(users=50, items=200)
    for split in ("loo", "ratio"):
        whole = make_problem(dataset, split=split, clients=10)
        part = make_problem(dataset, split=split, clients=10, client_limit=3)
        check(part)
        assert part.num_clients == 3
        assert part.num_users == 15
        assert part.num_items == whole.num_items
        for user in range(15):
            assert part.train[user].tolist() == whole.train[user].tolist()
        if split == "loo":
            assert part.evaluation_negatives is not None
            assert whole.evaluation_negatives is not None
            np.testing.assert_array_equal(
                part.evaluation_negatives[1], whole.evaluation_negatives[1][:15]
            )


def test_own_split_and_clients() -> None:
    dataset = synthetic(users=20, items=40, interactions_per_user=8)
    rng = np.random.default_rng(0)
    own = rng.integers(0, 5, 20).astype(np.int32)
    split = rng.integers(0, 3, dataset.num_interactions).astype(np.int8)
    split[np.flatnonzero(np.diff(dataset.user, prepend=-1))] = 0  # All are trained, but ...
    split[dataset.user == 7] = 2  # Never trained, so dropped, and client 9 with it.
    own[7] = 9
    dataset = replace(dataset, split=split, client=own)
    problem = make_problem(dataset, split="ratio")
    assert 7 not in problem.user_index
    for client in range(problem.num_clients):
        users = problem.user_index[slice(*problem.client_starts[client : client + 2])]
        assert len(np.unique(own[users])) == 1
    assert problem.num_users == 19
    assert "1 clients without any user left dropped" in problem.notes
    for user, source in enumerate(problem.user_index):
        rows = (dataset.user == source) & (split == 2)
        assert problem.test[user].tolist() == sorted(dataset.item[rows].tolist())
    assert make_problem(dataset, split="ratio", clients=4).num_clients == 4


def test_few_unseen_items_are_noted() -> None:
    problem = make_problem(synthetic(users=20, items=60))
    assert any("20 users have fewer than 99 unseen items" in note for note in problem.notes)
    assert not make_problem(synthetic(users=20, items=300)).notes


def everything_touched(items: int = 6) -> Dataset:
    """User "a" has touched all items, user "b" three."""
    user = np.array([0] * items + [1] * 3, np.int32)
    item = np.array([*range(items), 0, 1, 2], np.int32)
    return Dataset(
        name="full",
        user=user,
        item=item,
        timestamp=np.arange(len(user), dtype=np.float64),
        user_ids=np.array(["a", "b"]),
        item_ids=np.arange(items).astype(str),
    )


def test_a_user_who_has_touched_every_item() -> None:
    dataset = everything_touched()
    for options in (
        {"split": "loo"},
        {"split": "loo", "protocol": "published"},
        {"split": "ratio", "protocol": "published"},
    ):
        with pytest.raises(
            InputError, match=r"full: user 'a' has touched every one of the 6 items"
        ):
            make_problem(dataset, **options)
    check(make_problem(dataset, split="ratio"))  # Leak-free: the held-out items are negatives.
    all_train = replace(dataset, split=np.zeros(9, np.int8))
    with pytest.raises(InputError, match="no negative is left for protocol=leak-free"):
        make_problem(all_train, split="ratio")


def test_bad_options() -> None:
    dataset = synthetic(users=20)
    for options, message in (
        (
            {"split": "lou"},
            r"split='lou' is unknown \(did you mean loo\?\); take one of loo, ratio",
        ),
        ({"protocol": "leaky"}, "protocol='leaky' is unknown"),
        ({"clients": 21}, "more than the 20 users"),
        ({"client_limit": 21}, "more than the 20 clients"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(InputError, match=message):
            make_problem(dataset, **options)
    with pytest.raises(InputError, match="no timestamps"):
        make_problem(replace(dataset, timestamp=None))


@pytest.mark.data
def test_popularity_on_ml_100k(data_dir) -> None:
    """The popularity control of the design: HR@10 40.8, NDCG@10 22.2 over uni99."""
    problem = make_problem(load_dataset(data_dir / "ml-100k" / "u.data"))
    assert problem.num_clients == 943
    assert problem.evaluation_negatives is not None
    count = np.bincount(problem.train.values, minlength=problem.num_items)
    held_out = count[problem.test.values][:, None]
    # Ties count against the held-out item.
    rank = (count[problem.evaluation_negatives[1]] >= held_out).sum(axis=1)
    hit = rank < 10
    assert abs(100 * hit.mean() - 40.8) < 3
    assert abs(100 * (hit / np.log2(rank + 2)).mean() - 22.2) < 3


@pytest.mark.data
def test_silos_of_ml_100k(data_dir) -> None:
    dataset = load_dataset(data_dir / "ml-100k-ratio" / "clients_100.npz")
    problem = make_problem(dataset, split="ratio")
    assert problem.users_per_client.tolist() == [9] * 99 + [52]
    assert int(problem.train.lengths.sum()) == 72_000
    assert int(problem.validation.lengths.sum()) == 8_000
    assert int(problem.test.lengths.sum()) == 20_000
    assert problem.user_index.tolist() == list(range(943))
