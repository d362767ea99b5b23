"""The cut at the elbow against distances to the chord, one point at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.relations import elbow_group

values = st.lists(st.integers(-50, 50), min_size=9, max_size=9)  # one compilation
group = jax.jit(elbow_group)


def by_hand(values, present):
    """Ids of the group; equal values in order of id."""
    ids = sorted(np.flatnonzero(present), key=lambda i: (-values[i], i))
    points = np.array([(rank, values[i]) for rank, i in enumerate(ids)], float)
    chord = points[-1] - points[0]
    length = np.hypot(*chord)
    best, elbow = -1.0, 0
    for rank, point in enumerate(points):
        away = point - points[0]
        distance = abs(away[0] * chord[1] - away[1] * chord[0]) / length if length else 0.0
        if distance > best + 1e-9:
            best, elbow = distance, rank
    return set(ids[: elbow + 1])


@settings(max_examples=60, deadline=None)
@given(values=values, seed=st.integers(0, 99))
def test_group(values, seed) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random(len(values)) < rng.choice([0.1, 0.5, 1.0])
    present[0] = True
    shown = np.where(present, np.array(values, np.float32), np.nan)
    found = group(shown, present, np.arange(len(values)))
    assert set(np.flatnonzero(found)) == by_hand(values, present)


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    shown, ids = rng.integers(0, 5, 40).astype(np.float32), np.arange(40)  # many of equal value
    expected = np.asarray(elbow_group(shown, np.ones(40, bool), ids))
    shuffled = rng.permutation(40)
    found = elbow_group(shown[shuffled], np.ones(40, bool), ids[shuffled])
    np.testing.assert_array_equal(found, expected[shuffled])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_flat_curve_has_its_first_client(count) -> None:
    found = elbow_group(jnp.ones(count), jnp.ones(count, bool), jnp.arange(count))
    assert np.flatnonzero(found).tolist() == [0]


def test_nobody_is_no_group() -> None:
    assert not np.asarray(elbow_group(jnp.ones(3), jnp.zeros(3, bool), jnp.arange(3))).any()
