"""k-means: planted groups, optimality, repeats, odd inputs."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import kmeans


def test_planted_groups_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    centers = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    labels = kmeans(centers[truth] + rng.normal(size=(200, 2)) * 0.1, 3, seed=0)
    assert labels.dtype == np.int32
    assert nmi(labels, truth) == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_every_vector_is_with_its_nearest_mean(seed: int, clusters: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(30, 3))
    labels = kmeans(vectors, clusters, seed=seed)
    assert labels.shape == (30,)
    assert set(labels) == set(range(clusters))  # distinct vectors: no empty cluster
    means = np.stack([vectors[labels == c].mean(axis=0) for c in range(clusters)])
    distances = np.linalg.norm(vectors[:, None] - means[None], axis=2)
    own = distances[np.arange(30), labels]
    # Lloyd stops once centers move by less than a tolerance of 1e-4 of the variance.
    assert (own <= distances.min(axis=1) + 0.05).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_seed_same_labels_under_any_thread_limit(dtype) -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(dtype)
    with threadpool_limits(1):
        first = kmeans(vectors, 20, seed=3)
    with threadpool_limits(2):
        np.testing.assert_array_equal(first, kmeans(vectors, 20, seed=np.int64(3)))
    assert (first != kmeans(vectors, 20, seed=4)).any()


def test_one_cluster_and_as_many_as_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_array_equal(kmeans(vectors, 1, seed=0), np.zeros(6))
    assert sorted(kmeans(vectors, 6, seed=0)) == list(range(6))


@pytest.mark.parametrize("distinct", [1, 2])
def test_fewer_distinct_vectors_than_clusters_is_quiet(distinct: int) -> None:
    vectors = np.repeat(np.eye(3)[:distinct], 5, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = kmeans(vectors, 4, seed=0)
    assert ((labels >= 0) & (labels < 4)).all()
    for value in range(distinct):  # equal vectors stay together, distinct ones apart
        assert len(set(labels[5 * value : 5 * value + 5])) == 1
    assert len(set(labels)) == distinct


@pytest.mark.parametrize("clusters", [0, -1, 4])
def test_clusters_out_of_range(clusters: int) -> None:
    with pytest.raises(InputError, match=f"clusters={clusters} must be from 1 to the 3 items"):
        kmeans(np.eye(3), clusters, seed=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_vector_that_is_not_finite_is_named(bad: float) -> None:
    vectors = np.zeros((5, 2))
    vectors[[2, 4], 1] = bad
    with pytest.raises(InputError, match="item 2 "):
        kmeans(vectors, 2, seed=0)


def test_not_a_table() -> None:
    with pytest.raises(InputError, match="shape"):
        kmeans(np.zeros(5), 2, seed=0)
