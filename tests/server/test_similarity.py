"""The cosine graph against a dense float64 matrix, in one block and in many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.server import communities, cosine_similarity_graph, similarity


def dense_cosine(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0, norm, 1)
    return np.triu(unit @ unit.T, 1)


@pytest.mark.parametrize("block_entries", [1, 50, 10**6])  # one row a block, three, all
@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0.05, 0.9))
@settings(max_examples=25, deadline=None)
def test_against_a_dense_matrix(block_entries: int, seed: int, threshold: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(16, 4))
    expected = dense_cosine(vectors)
    expected[expected < threshold] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK_ENTRIES", block_entries)
        graph = cosine_similarity_graph(vectors, threshold=threshold)
    assert graph.dtype == np.float32
    assert graph.shape == (16, 16)
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-6)


def test_scale_does_not_matter_not_even_tiny() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 3))
    expected = cosine_similarity_graph(vectors, threshold=0.3).toarray()
    for scale in (1e-30, 1e30):
        got = cosine_similarity_graph((scale * vectors).astype(np.float32), threshold=0.3)
        np.testing.assert_allclose(got.toarray(), expected, atol=1e-6)


def test_zero_vectors_are_similar_to_nothing_and_copies_to_each_other() -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [2.0, 4.0]])
    graph = cosine_similarity_graph(vectors, threshold=0.9)
    np.testing.assert_array_equal(np.argwhere(graph.toarray()), [[1, 3]])


@pytest.mark.parametrize("vectors", [np.zeros((0, 4)), np.eye(4), np.ones((1, 2))])
def test_no_edges(vectors: np.ndarray) -> None:
    graph = cosine_similarity_graph(vectors, threshold=0.5)
    assert graph.shape == (len(vectors), len(vectors))
    assert graph.nnz == 0


def test_it_is_what_communities_take() -> None:
    truth = np.array([0, 1, 2, 1, 0, 1])
    vectors = np.eye(3)[truth] + 0.01
    graph = cosine_similarity_graph(vectors, threshold=0.5)
    np.testing.assert_array_equal(communities(graph, threshold=0.5), [1, 0, 2, 0, 1, 0])


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, float("nan")])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold="):
        cosine_similarity_graph(np.eye(3), threshold=threshold)


def test_not_finite() -> None:
    with pytest.raises(InputError, match="item 1 "):
        cosine_similarity_graph(np.array([[1.0], [np.nan]]), threshold=0.5)
