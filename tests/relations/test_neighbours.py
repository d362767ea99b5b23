"""The user graph against a double loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.relations import neighbour_weights

PRESENT = np.array([True, False, True, True, True, False, True])


def similarities(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(-0.2, 1, size=(7, 7)).astype(np.float32)
    found = (found + found.T) / 2
    np.fill_diagonal(found, 1)
    found[~PRESENT] = found[:, ~PRESENT] = np.nan
    return found


def by_hand(s, threshold, count):
    ids = np.flatnonzero(PRESENT)
    mean = np.mean([s[i, j] for i in ids for j in ids], dtype=np.float64)
    weights = np.zeros((7, 7))
    for i in ids:
        if count is None:
            near = [j for j in ids if s[i, j] > threshold * mean]
        else:
            near = sorted(ids, key=lambda j: -s[i, j])[:count]
        near = near or [i]
        weights[i, near] = 1 / len(near)
    return weights


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), threshold=st.sampled_from([0.0, 0.9, 1.3, 9.0]))
def test_by_threshold(seed, threshold) -> None:
    s = similarities(seed)
    found = neighbour_weights(s, PRESENT, threshold=threshold)
    np.testing.assert_allclose(found, by_hand(s, threshold, None), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 5, 50])
def test_by_count(count) -> None:
    s = similarities(3)
    found = neighbour_weights(s, PRESENT, count=count)
    np.testing.assert_allclose(found, by_hand(s, 1.0, count), rtol=1e-6)


def test_equals_are_all_neighbours() -> None:
    found = neighbour_weights(np.ones((4, 4), np.float32), np.ones(4, bool), count=2)
    np.testing.assert_allclose(found, np.full((4, 4), 0.25))
