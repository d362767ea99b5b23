"""Counts of pairs against dense float64 matrices, and against what AlignFedRec's uplink counts."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pair_counts as module
import pytest
from harness import InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_counts import pair_counts

from fedjax_rec.uplink import SimilarityUplink

THRESHOLDS = (0.1, 0.35, 0.8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 40))
@settings(max_examples=20, deadline=None)
def test_against_dense_matrices(seed: int, clients: int, items: int) -> None:
    tables = np.random.default_rng(seed).normal(size=(clients, items, 4)).astype(np.float32)
    found = pair_counts(tables, THRESHOLDS)
    upper = np.triu_indices(items, k=1)
    unit = tables.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    cosines = np.stack([(z @ z.T)[upper] for z in unit])
    for t, threshold in enumerate(THRESHOLDS):
        reached = cosines >= threshold
        # Those so near the threshold that float32 may decide otherwise: none, mostly.
        close = (np.abs(cosines - threshold) < 1e-6).sum()
        assert np.abs(found.clients[:, t] - reached.sum(axis=1)).max() <= close
        assert abs(found.union[t] - reached.any(axis=0).sum()) <= close


def test_several_tiles_and_what_the_uplink_counts() -> None:
    tables = jax.random.normal(jax.random.key(0), (2, 1300, 8))  # three groups of rows
    found = pair_counts(tables, THRESHOLDS)
    for t, threshold in enumerate(THRESHOLDS):
        way = SimilarityUplink(threshold)
        uploads = jax.vmap(way.transform().apply)(jax.random.split(jax.random.key(1), 2), tables)
        total, sent = way.add(None, uploads, jnp.ones(2))
        np.testing.assert_array_equal(found.clients[:, t], sent)
        # Tiles off the diagonal hold each pair once, those on it twice.
        own = np.array([np.array_equal(tile, tile.T) for tile in total.total])
        nonzero = np.array([np.count_nonzero(tile) for tile in total.total])
        assert found.union[t] == (nonzero // np.where(own, 2, 1)).sum()


def test_rows_of_zeros_are_similar_to_nothing() -> None:
    tables = np.array([[[0, 0], [0, 0], [1, 2], [2, 4]]], np.float32)
    found = pair_counts(tables, (0.5,))
    assert found.clients.tolist() == [[1]]
    assert found.union.tolist() == [1]


@pytest.mark.parametrize(
    ("tables", "thresholds", "message"),
    [
        (np.zeros((3, 2)), (0.5,), "embeddings of shape"),
        (np.zeros((1, 1, 2)), (0.5,), "embeddings of shape"),
        (np.zeros((1, 3, 2)), (0.0,), "threshold=0.0"),
        (np.zeros((1, 3, 2)), (float("nan"),), "threshold=nan"),
    ],
)
def test_what_cannot_be_counted(tables, thresholds, message) -> None:
    with pytest.raises(InputError, match=message):
        pair_counts(tables, thresholds)


def test_examples() -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
