"""Adam's two forms against Adam in float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.methods.adam import (
    MOST_DEFERRED,
    AdamState,
    defer,
    fresh_adam,
    settle,
    take_adam_step,
    take_row_step,
)

ROWS, BATCH, DIM, RATE = 7, 5, 3, 0.1
step = jax.jit(partial(take_adam_step, lr=RATE), static_argnames="weight_decay")
row_step = jax.jit(partial(take_row_step, lr=RATE))
close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
seeds = st.integers(0, 2**32 - 1)


def expected(x, gradients, t, m, v, decay=0.0):
    """As Kingma and Ba write it, with L2 regularization."""
    x, m, v = (np.float64(each) for each in (x, m, v))
    t = int(t)
    for g in gradients:
        g = g + decay * x
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x, t, m, v


def drawn(seed: int, steps: int):
    """A table, a past, and batches of rows (some come twice, some never) with gradients."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    past = AdamState(
        jnp.int32(rng.integers(0, 50)),
        jnp.asarray(0.1 * rng.normal(size=table.shape), jnp.float32),
        jnp.asarray(0.1 * rng.random(table.shape), jnp.float32),
    )
    rows = rng.integers(0, ROWS - 1, (steps, BATCH)).astype(np.int32)
    return table, past, rows, rng.normal(size=(steps, BATCH, DIM)).astype(np.float32)


def spread(rows, gradients):
    """The gradients of the whole table."""
    dense = np.zeros((len(rows), ROWS, DIM))
    for each, batch, gradient in zip(dense, rows, gradients, strict=True):
        np.add.at(each, batch, gradient)
    return dense


@given(seeds, st.sampled_from([0.0, 0.1]))
@settings(max_examples=20, deadline=None)
def test_a_tree_of_parameters(seed, decay) -> None:
    rng = np.random.default_rng(seed)
    x = {"a": rng.normal(size=(4, 2)).astype(np.float32), "b": np.float32(rng.normal())}
    gradients = [{"a": rng.normal(size=(4, 2)), "b": rng.normal()} for _ in range(6)]
    found, state = x, fresh_adam(x)
    for gradient in gradients:
        found, state = step(found, jax.tree.map(jnp.float32, gradient), state, weight_decay=decay)
    for name in x:
        moved, t, m, v = expected(x[name], [g[name] for g in gradients], 0, 0, 0, decay)
        close(found[name], moved)
        close(state.mean[name], m)
        close(state.square[name], v)
        assert int(state.steps) == t


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_steps_by_rows(seed) -> None:
    """Rows that a batch names twice, not at all, or never; moments with a past."""
    table, past, rows, gradients = drawn(seed, 9)
    found, state = table, defer(past)
    for batch in zip(rows, gradients, strict=True):
        found, state = row_step(found, *batch, state)
    moved, t, m, v = expected(table, spread(rows, gradients), *past)
    state = settle(state)
    close(found, moved)
    close(state.mean, m)
    close(state.square, v)
    assert int(state.steps) == t
    assert (np.asarray(found)[-1] != table[-1]).all()  # by its past alone


def test_as_many_steps_as_may_be_deferred() -> None:
    """The factors stay within float32, and what was put off is not lost."""
    table, past, rows, gradients = drawn(0, MOST_DEFERRED)

    @jax.jit
    def run(table, state):
        def one(carry, batch):
            return take_row_step(carry[0], *batch, carry[1], lr=RATE), None

        return jax.lax.scan(one, (table, state), (rows, gradients))[0]

    found, state = run(table, defer(past))
    moved, _, m, v = expected(table, spread(rows, gradients), *past)
    close(found, moved, rtol=2e-3, atol=2e-3)
    close(settle(state).mean, m, rtol=1e-3)
    close(settle(state).square, v, rtol=1e-3)


def test_rows_of_any_shape() -> None:
    table, past, rows, gradients = drawn(1, 1)
    flat = row_step(table, rows[0, :4], gradients[0, :4], defer(past))
    square = row_step(
        table, rows[0, :4].reshape(2, 2), gradients[0, :4].reshape(2, 2, DIM), defer(past)
    )
    jax.tree.map(np.testing.assert_array_equal, flat, square)


@pytest.mark.parametrize("fresh", [True, False])
def test_an_inactive_step_changes_nothing(fresh) -> None:
    table, past, rows, gradients = drawn(2, 1)
    if fresh:
        past = fresh_adam(jnp.asarray(table))
    same = partial(jax.tree.map, np.testing.assert_array_equal)
    same(step(table, spread(rows, gradients)[0], past, active=False), (table, past))
    found = row_step(table, rows[0], gradients[0], defer(past), active=False)
    same(found, (table, defer(past)))
    moved, _ = step(table, spread(rows, gradients)[0], past, active=True)
    assert np.abs(moved - table).max() > 0.01
