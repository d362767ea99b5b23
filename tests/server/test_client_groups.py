"""Groups of clients: planted ones are found, and keep their names however they are renamed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import align_labels, group_clients


def planted(clients=60, groups=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, groups, clients)
    centres = 10 * rng.normal(size=(groups, 8))
    # Columns of very different scale, and one that says nothing.
    heads = (centres[truth] + rng.normal(size=(clients, 8))) * np.logspace(-3, 3, 8)
    return np.column_stack([heads, np.full(clients, 7.0)]), truth


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
@pytest.mark.parametrize("pca", [None, 0.95])
def test_planted_groups_are_found(method, pca) -> None:
    heads, truth = planted()
    labels = group_clients(heads, 3, method=method, pca=pca, seed=0)
    assert labels.dtype == np.int32
    assert nmi(labels, truth) == pytest.approx(1)
    np.testing.assert_array_equal(labels, group_clients(heads, 3, method=method, pca=pca, seed=0))


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_scale_and_place_of_a_parameter_do_not_matter(method) -> None:
    heads, _ = planted()
    moved = heads * np.logspace(2, -2, heads.shape[1]) + 5
    labels, others = (group_clients(x, 3, method=method, seed=1) for x in (heads, moved))
    assert nmi(labels, others) == pytest.approx(1)


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
@pytest.mark.parametrize("clients", [1, 2, 4, 5])
def test_few_clients(method, clients) -> None:
    heads = np.random.default_rng(0).normal(size=(clients, 3))
    labels = group_clients(heads, 4, method=method, seed=0)
    assert labels.shape == (clients,)
    assert set(labels) <= set(range(4))
    assert len(set(labels)) == min(clients, 4)


def test_alike_clients_are_one_group() -> None:
    labels = group_clients(np.tile([[0.1, 0.2, -3.0]], (6, 1)), 4, seed=0)
    np.testing.assert_array_equal(labels, np.zeros(6))


WRONG = [
    ({"groups": 0}, "groups=0 must be at least 1"),
    ({"groups": 2, "method": "dbscan"}, "method='dbscan' is unknown"),
    ({"groups": 2, "pca": 1.5}, "pca=1.5 must be a share"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message):
        group_clients(np.eye(4), seed=0, **options)


def test_a_head_that_is_not_finite_is_named() -> None:
    heads = np.eye(4)
    heads[2, 1] = np.nan
    with pytest.raises(InputError, match="client 2 is not finite"):
        group_clients(heads, 2, seed=0)


@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
@settings(max_examples=50, deadline=None)
def test_another_naming_of_the_same_groups_is_undone(seed, names) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, 40).astype(np.int32)
    np.testing.assert_array_equal(align_labels(np.array(names)[labels], labels, 5), labels)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_no_naming_keeps_more_clients_where_they_were(seed) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.integers(0, 4, 20), rng.integers(-1, 4, 20)
    aligned = align_labels(new, old, 4)
    best = max((np.array(p)[new] == old).sum() for p in itertools.permutations(range(4)))
    assert (aligned == old).sum() == best
    # Only names change: who is together stays together.
    assert len(set(zip(new.tolist(), aligned.tolist(), strict=True))) == len(set(new.tolist()))


def test_without_a_past_any_naming_will_do() -> None:
    new = np.array([2, 0, 0, 1])
    aligned = align_labels(new, np.full(4, -1), 3)
    assert len(set(aligned)) == 3
    assert aligned[1] == aligned[2]
