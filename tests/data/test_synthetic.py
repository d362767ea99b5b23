"""The synthetic dataset: sizes as asked, a long tail, tastes that follow the planted clusters."""

import sys

import numpy as np
import pytest

from fedjax_rec.data import load_dataset, synthetic
from fedjax_rec.errors import InputError

MODULE = sys.modules["fedjax_rec.data.synthetic"]  # the package's own name is the function


def test_shape_and_bounds() -> None:
    dataset = synthetic()
    assert repr(dataset).startswith("Dataset('synthetic': 400 users, 300 items, ")
    counts = np.bincount(dataset.user, minlength=400)
    assert counts.min() >= 5
    assert counts.max() <= 150
    assert 27 < counts.mean() < 32
    pairs = dataset.user.astype(np.int64) * 300 + dataset.item
    assert len(np.unique(pairs)) == len(pairs)
    assert dataset.timestamp is not None
    same_user = np.diff(dataset.user) == 0
    assert (np.diff(dataset.timestamp)[same_user] >= 0).all()
    assert (dataset.timestamp == np.floor(dataset.timestamp)).all()
    assert dataset.item_cluster is not None
    assert np.bincount(dataset.item_cluster).tolist() == [25] * 12
    assert dataset.item_titles is not None
    assert len(np.unique(dataset.item_titles)) == 300


def test_deterministic_by_seed() -> None:
    first, again, other = synthetic(seed=3), synthetic(seed=3), synthetic(seed=4)
    for name in ("user", "item", "timestamp", "item_cluster", "item_titles", "item_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert len(first.item) != len(other.item) or (first.item != other.item).any()


def test_genres_tell_of_the_clusters_and_are_not_the_truth() -> None:
    dataset = synthetic(users=30, items=4000, clusters=20)
    assert dataset.item_cluster is not None
    assert dataset.item_genres is not None
    assert dataset.item_titles is not None
    names = list(dict.fromkeys(dataset.item_genres.tolist()))
    table = np.zeros((20, 20))
    np.add.at(table, (dataset.item_cluster, [names.index(g) for g in dataset.item_genres]), 1.0)
    # 80 % for sure, and one in 20 of the rest.
    assert 0.78 < table.max(axis=1).sum() / 4000 < 0.84
    assert len(np.unique(table.argmax(axis=1))) == 20
    assert "Genre-17" in names
    for title, genre in zip(dataset.item_titles, dataset.item_genres, strict=True):
        assert title.endswith(f"({genre})")


def test_long_tail() -> None:
    dataset = synthetic(users=4000, items=600, clusters=6, interactions_per_user=20)
    flat = synthetic(users=4000, items=600, clusters=6, interactions_per_user=20, popularity=0.0)
    share = {}
    for name, data in {"zipf": dataset, "flat": flat}.items():
        counts = np.sort(np.bincount(data.item, minlength=600))[::-1]
        share[name] = counts[:60].sum() / counts.sum()  # Of the most popular tenth.
    assert share["zipf"] > 0.4
    assert share["flat"] < 0.2


def test_popularity_follows_zipf_within_a_cluster() -> None:
    # One cluster and few draws of many items: nearly with replacement, so counts ~ 1 / rank.
    dataset = synthetic(users=20_000, items=200, clusters=1, interactions_per_user=5)
    counts = np.sort(np.bincount(dataset.item, minlength=200))[::-1]
    slope = np.polyfit(np.log(np.arange(20, 200)), np.log(counts[20:]), 1)[0]
    assert -1.15 < slope < -0.85


def test_tastes_follow_the_planted_clusters() -> None:
    dataset = synthetic(users=300)
    assert dataset.item_cluster is not None
    table = np.zeros((300, 12))
    np.add.at(table, (dataset.user, dataset.item_cluster[dataset.item]), 1.0)
    top_two = np.sort(table, axis=1)[:, -2:].sum(axis=1) / table.sum(axis=1)
    alike = synthetic(users=300, taste=100.0)
    assert alike.item_cluster is not None
    even = np.zeros((300, 12))
    np.add.at(even, (alike.user, alike.item_cluster[alike.item]), 1.0)
    top_two_even = np.sort(even, axis=1)[:, -2:].sum(axis=1) / even.sum(axis=1)
    assert top_two.mean() > 0.6
    assert top_two_even.mean() < 0.4


def test_held_out_events_are_no_odder_than_others() -> None:
    # Without the mixing, the last events would be each user's least likely ones.
    dataset = synthetic(users=2000, seed=1)
    popularity = np.bincount(dataset.item, minlength=300)[dataset.item]
    last = np.append(np.diff(dataset.user) > 0, True)
    assert abs(popularity[last].mean() / popularity.mean() - 1) < 0.1


def test_unused_items_keep_a_column_and_small_sizes_work() -> None:
    dataset = synthetic(users=1, items=1000, clusters=1000, interactions_per_user=5)
    assert dataset.num_items == 1000
    assert dataset.num_interactions == 5
    tiny = synthetic(users=30, items=10, clusters=3, interactions_per_user=5)
    assert (np.bincount(tiny.user) == 5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, "users=0"),
        ({"users": 2.5}, r"users=2\.5 is no integer"),
        ({"items": 9}, "items=9 is below 10"),
        ({"clusters": 301}, r"clusters=301 is outside 1 \.\. 300"),
        ({"clusters": 0}, "clusters=0"),
        ({"interactions_per_user": 4}, "interactions_per_user=4 is outside"),
        ({"interactions_per_user": 151}, r"outside 5 \.\. 150"),
        ({"interactions_per_user": float("nan")}, "interactions_per_user=nan"),
        ({"taste": 0.0}, "taste"),
        ({"breadth": 0.0}, "breadth"),
        ({"popularity": -1}, "popularity"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "a"}, "seed='a'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthetic(**options)


def test_load_dataset_passes_options() -> None:
    assert load_dataset("synthetic", users=10, seed=5).num_users == 10
    with pytest.raises(InputError, match=r"user= is no option of the synthetic dataset .*users"):
        load_dataset(user=3)


def test_draws_with_repetition_have_the_law_of_the_clocks(monkeypatch) -> None:
    """The same users' tastes: items are met as often, and the first of two as often first."""
    options = {"users": 4_000, "items": 30, "clusters": 3, "interactions_per_user": 6}
    clocks = synthetic(**options)
    monkeypatch.setattr(MODULE, "_FEW_CELLS", 0)
    repeated = synthetic(**options)
    for data in (clocks, repeated):
        pairs = np.stack([data.user, data.item], axis=1)
        assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.array_equal(repeated.user, clocks.user)
    counts = [np.bincount(data.item, minlength=30) for data in (clocks, repeated)]
    assert not np.array_equal(*counts)
    # Each count is a sum of 4,000 indicators: 5 standard deviations of a difference of two.
    assert (np.abs(counts[0] - counts[1]) < 5 * np.sqrt(2 * 4_000 * 0.25)).all()
    np.testing.assert_allclose(counts[0], counts[1], atol=60, rtol=0.1)
    in_taste = [
        np.bincount(np.unique(data.user * 3 + data.item_cluster[data.item], return_counts=True)[1])
        for data in (clocks, repeated)
    ]
    shares = [x[:7] / x.sum() for x in in_taste]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.03)


def test_narrow_tastes_are_drawn_too(monkeypatch) -> None:
    monkeypatch.setattr(MODULE, "_FEW_CELLS", 0)
    data = synthetic(users=30, items=20, clusters=2, interactions_per_user=9, popularity=5.0)
    pairs = np.stack([data.user, data.item], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.bincount(data.user).min() >= 5
