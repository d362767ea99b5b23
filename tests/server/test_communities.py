"""Communities: planted ones, the definition of modularity, determinism, igraph left as it was."""

import doctest
import importlib
import random
import warnings

import igraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import (
    EmptyGraphWarning,
    communities,
    cosine_similarity_graph,
    modularity,
)
from tests.server.graphs import around_centers, low_rank, planted

WAYS = [("leiden", "igraph"), ("leiden", "leidenalg"), ("louvain", "igraph")]
each_way = pytest.mark.parametrize(("method", "implementation"), WAYS)


def modularity_by_definition(similarity, labels, threshold) -> float:
    """Q = 1/2W Σ_ij [A_ij − d_i d_j / 2W] δ(c_i, c_j), in float64, from a full matrix."""
    adjacency = np.triu(np.where(similarity >= threshold, similarity, 0), 1).astype(np.float64)
    adjacency += adjacency.T
    degrees, total = adjacency.sum(axis=1), adjacency.sum()
    same = labels[:, None] == labels[None, :]
    return float((same * (adjacency - np.outer(degrees, degrees) / total)).sum() / total)


def is_partition_like(labels, truth) -> bool:
    return nmi(labels, truth) == pytest.approx(1)


@each_way
def test_planted_communities_are_found(method, implementation) -> None:
    similarity, truth = planted([30, 12, 7, 2])
    labels = communities(similarity, threshold=0.5, method=method, implementation=implementation)
    assert labels.dtype == np.int32
    assert is_partition_like(labels, truth)
    np.testing.assert_array_equal(np.bincount(labels), [30, 12, 7, 2])


@each_way
def test_same_seed_same_labels(method, implementation) -> None:
    similarity = np.random.default_rng(1).uniform(0, 1, (60, 60))
    options = {"threshold": 0.6, "method": method, "implementation": implementation}
    first = communities(similarity, **options, seed=5)
    random.seed(0)
    random.random()
    np.testing.assert_array_equal(first, communities(similarity, **options, seed=np.int64(5)))
    others = [communities(similarity, **options, seed=seed) for seed in range(12)]
    assert any((other != first).any() for other in others)  # the seed is used


@each_way
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_labels_are_dense_by_size_and_connected_in_the_graph(
    method, implementation, seed, m, threshold
) -> None:
    similarity = np.random.default_rng(seed).uniform(-1, 1, (m, m))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyGraphWarning)
        labels = communities(
            similarity, threshold=threshold, method=method, implementation=implementation
        )
    counts = np.bincount(labels)
    assert (counts > 0).all()
    assert (np.diff(counts) <= 0).all()
    first = [int(np.argmax(labels == c)) for c in range(len(counts))]
    assert all(
        first[c] < first[c + 1] for c in range(len(counts) - 1) if counts[c] == counts[c + 1]
    )
    linked = np.triu(similarity >= threshold, 1)
    linked |= linked.T
    alone = ~linked.any(axis=1)
    assert (counts[labels[alone]] == 1).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_modularity_by_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (15, 15))
    similarity[0, 1] = 1  # an edge in any case
    labels = rng.integers(0, 4, 15)
    assert modularity(similarity, labels, threshold=0.3) == pytest.approx(
        modularity_by_definition(similarity, labels, 0.3), abs=1e-12
    )


@each_way
def test_no_worse_than_the_truth(method, implementation) -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 5, 80)
    same = truth[:, None] == truth[None, :]
    similarity = np.where(rng.uniform(size=same.shape) < np.where(same, 0.5, 0.05), 0.8, 0.0)
    labels = communities(similarity, threshold=0.5, method=method, implementation=implementation)
    found = modularity(similarity, labels, threshold=0.5)
    assert found >= modularity(similarity, truth, threshold=0.5) - 1e-9


def graphs_with_communities(seed: int) -> dict[str, tuple[np.ndarray | sparse.csr_array, float]]:
    """Similarities and their threshold."""
    centers, _ = around_centers(400, 12, noise=1.0, seed=seed)
    return {
        "planted": (planted([30, 12, 7, 2], seed)[0], 0.5),
        "planted, noisy": (planted([40] * 6, seed, noise=0.7)[0], 0.5),
        "around centers": (cosine_similarity_graph(centers, threshold=0.3), 0.3),
        "low rank": (cosine_similarity_graph(low_rank(800, seed=seed), threshold=0.5), 0.5),
    }


@pytest.mark.parametrize("seed", range(4))
def test_leiden_is_not_below_louvain_by_more_than_a_percent(seed: int) -> None:
    for name, (similarity, threshold) in graphs_with_communities(seed).items():
        q = {
            method: modularity(
                similarity,
                communities(similarity, threshold=threshold, method=method, seed=seed),
                threshold=threshold,
            )
            for method in ("leiden", "louvain")
        }
        assert q["leiden"] >= 0.99 * q["louvain"], name


@pytest.mark.parametrize("threshold", [0.5, 0.97])  # 11,000 edges, 600 edges
def test_leiden_finds_no_less_than_louvain_in_noise(threshold: float) -> None:
    # One run of either is luck where nothing is to be found, so several are compared.
    found: dict[str, list[float]] = {"leiden": [], "louvain": []}
    for seed in range(10):
        similarity = np.random.default_rng(seed).uniform(size=(150, 150))
        for method, values in found.items():
            labels = communities(similarity, threshold=threshold, method=method, seed=seed)
            values.append(modularity(similarity, labels, threshold=threshold))
    assert np.median(found["leiden"]) >= 0.99 * np.median(found["louvain"])


@each_way
@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0])  # cosines inside a cluster: 0.94, 0.8, 0.5
def test_embeddings_around_planted_centers_give_their_communities(
    method, implementation, noise
) -> None:
    vectors, truth = around_centers(600, 12, noise=noise, seed=1)
    graph = cosine_similarity_graph(vectors, threshold=0.4)
    labels = communities(graph, threshold=0.4, method=method, implementation=implementation)
    assert nmi(labels, truth) >= 0.8


@pytest.mark.parametrize("at_once", [1, 7])
def test_edges_may_pass_in_any_portions(monkeypatch, at_once: int) -> None:
    similarity, _ = planted([9, 6, 4], noise=0.9)
    expected = communities(similarity, threshold=0.5)
    monkeypatch.setattr(importlib.import_module(communities.__module__), "_EDGES_AT_ONCE", at_once)
    np.testing.assert_array_equal(communities(similarity, threshold=0.5), expected)


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_array, sparse.csc_matrix])
def test_sparse_is_as_dense(kind) -> None:
    similarity, _ = planted([9, 6, 4])
    expected = communities(similarity, threshold=0.5)
    for part in (similarity, np.triu(similarity, 1)):
        np.testing.assert_array_equal(communities(kind(part), threshold=0.5), expected)
        assert modularity(kind(part), expected, threshold=0.5) == pytest.approx(
            modularity(similarity, expected, threshold=0.5)
        )


def test_repeated_sparse_entries_add_up() -> None:
    twice = sparse.coo_array(([0.3, 0.3], ([0, 0], [1, 1])), shape=(3, 3))
    np.testing.assert_array_equal(communities(twice, threshold=0.5), [0, 0, 1])


def test_the_threshold_is_inclusive_and_the_diagonal_is_no_edge() -> None:
    similarity = np.array([[1, 0.5, 0], [0.5, 1, 0.499], [0, 0.499, 1]])
    np.testing.assert_array_equal(communities(similarity, threshold=0.5), [0, 0, 1])


def test_weights_count() -> None:
    # A path of four: its middle edge decides, by weight alone.
    def path(middle: float) -> np.ndarray:
        matrix = np.zeros((4, 4))
        matrix[0, 1] = matrix[2, 3] = 1
        matrix[1, 2] = middle
        return matrix

    np.testing.assert_array_equal(communities(path(0.5), threshold=0.1), [0, 0, 1, 1])
    # Halves have Q = 2/52 − 1/2 < 0 now, and so has the middle by itself: all in one has 0.
    np.testing.assert_array_equal(communities(path(50.0), threshold=0.1), [0, 0, 0, 0])


@pytest.mark.parametrize("empty", [np.eye(4), np.zeros((4, 4)), sparse.csr_array((4, 4))])
def test_an_empty_graph_warns_once_and_gives_singletons(empty) -> None:
    with pytest.warns(EmptyGraphWarning, match="threshold 0.5") as caught:
        labels = communities(empty, threshold=0.5)
    assert len(caught) == 1
    np.testing.assert_array_equal(labels, np.arange(4))
    assert labels.dtype == np.int32
    assert np.isnan(modularity(empty, labels, threshold=0.5))


def draws_from_python_random() -> bool:
    """Whether igraph's random graphs follow ``random.seed``, as by default."""
    graphs = []
    for _ in range(2):
        random.seed(123)
        graphs.append(igraph.Graph.Erdos_Renyi(n=40, p=0.5).get_edgelist())
    return graphs[0] == graphs[1]


def test_igraph_gets_its_generator_back_and_python_random_is_not_touched() -> None:
    similarity, _ = planted([9, 6, 4])
    state = random.getstate()
    communities(similarity, threshold=0.5, seed=7)
    assert random.getstate() == state
    assert draws_from_python_random()
    random.setstate(state)


def test_igraph_gets_its_generator_back_after_an_error(monkeypatch) -> None:
    def fail(*args, **options):
        raise RuntimeError("inside igraph")

    monkeypatch.setattr(igraph.Graph, "community_leiden", fail)
    state = random.getstate()
    with pytest.raises(RuntimeError, match="inside igraph"):
        communities(np.ones((3, 3)), threshold=0.5)
    assert draws_from_python_random()
    random.setstate(state)


@pytest.mark.parametrize("threshold", [0.0, -0.1, float("nan")])
def test_a_threshold_that_allows_no_positive_weights(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold="):
        communities(np.eye(3), threshold=threshold)


@pytest.mark.parametrize(
    "similarity", [np.zeros((2, 3)), np.zeros(3), sparse.csr_array((2, 3)), [[1.0, 2.0]]]
)
def test_not_a_square_matrix(similarity) -> None:
    with pytest.raises(InputError, match="square"):
        communities(similarity, threshold=0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad: float) -> None:
    similarity = np.eye(3)
    similarity[0, 2] = bad
    for given_ in (similarity, sparse.csr_array(similarity)):
        with pytest.raises(InputError, match="not finite"):
            communities(given_, threshold=0.5)


def test_unknown_choices_and_labels_of_another_length() -> None:
    with pytest.raises(InputError, match="method='infomap'"):
        communities(np.eye(3), threshold=0.5, method="infomap")
    with pytest.raises(InputError, match="implementation='networkx'"):
        communities(np.eye(3), threshold=0.5, implementation="networkx")
    with pytest.raises(InputError, match="2 labels for 3 items"):
        modularity(np.ones((3, 3)), np.array([0, 1]), threshold=0.5)


@pytest.mark.slow
def test_a_large_sparse_graph() -> None:
    rng = np.random.default_rng(0)
    m, groups, degree = 20_000, 50, 40
    truth = rng.integers(0, groups, m)
    members = [np.flatnonzero(truth == g) for g in range(groups)]
    i = np.repeat(np.arange(m), degree)
    j = np.concatenate([rng.choice(members[g], degree) for g in truth])
    i, j = np.minimum(i, j), np.maximum(i, j)
    pairs = np.unique(np.stack([i, j])[:, i < j], axis=1)
    graph = sparse.coo_array((rng.uniform(0.5, 1, pairs.shape[1]), tuple(pairs)), shape=(m, m))
    assert is_partition_like(communities(graph, threshold=0.5), truth)


@pytest.mark.parametrize("name", ["communities", "clustering", "similarity"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"fedjax_rec.server.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
