"""Adam, written out so that a batch passes over the parameters and their moments once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["AdamState", "fresh_adam", "gradient_of_table", "take_adam_step"]

_MEAN_DECAY, _SQUARE_DECAY, _EPSILON = 0.9, 0.999, 1e-8  # β1, β2 and ε of torch and optax


class AdamState(NamedTuple):
    """What Adam remembers of the parameters' gradients.

    Attributes:
      steps: [] int32, t, steps so far.
      mean: pytree like the parameters, m, the decaying mean of gradients.
      square: likewise, v, of their squares.
    """

    steps: jax.Array
    mean: Any
    square: Any


def fresh_adam(parameters: Any) -> AdamState:
    """The state before the first step."""
    # Two trees of their own: a state that is donated must not hold one buffer twice.
    mean, square = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    return AdamState(jnp.int32(0), mean, square)


def take_adam_step(
    parameters: Any,
    gradient: Any,
    state: AdamState,
    *,
    lr: float,
    weight_decay: float = 0.0,
    active: jax.Array | bool = True,
) -> tuple[Any, AdamState]:
    """One step:

        g ← g + λ·x,    m ← β1·m + (1 − β1)·g,    v ← β2·v + (1 − β2)·g²,
        x ← x − η/(1 − β1^t) · m / (√(v/(1 − β2^t)) + ε).

    Zero gradients are no reason to leave a row out: its moments decay, and it goes on moving by
    what they were. So a step is a pass over all of x, m and v: at a few megabytes each, the time
    is that of reading and writing them. Everything else here is a number, not an array: whether
    the step is taken at all, too, where selecting the old or the new state afterwards would pass
    over all arrays again (2.4 times as long, for a table of 8 MB).

    Args:
      parameters: pytree of float arrays, x.
      gradient: likewise, g.
      state: of the step before.
      lr: η.
      weight_decay: λ, L2 regularization as in torch's Adam (not AdamW's).
      active: [] bool; False: nothing changes, whatever the gradient, if it is finite.

    Returns:
      The new parameters and state.

    Reference:
      Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """
    active = jnp.asarray(active)
    steps = state.steps + active
    t = jnp.maximum(steps, 1).astype(jnp.float32)  # a step that is not taken must not divide by 0
    # A decay of 1 and a share of 0 leave a moment as it is.
    mean_decay, square_decay = (jnp.where(active, b, 1) for b in (_MEAN_DECAY, _SQUARE_DECAY))
    mean_share, square_share = (jnp.where(active, 1 - b, 0) for b in (_MEAN_DECAY, _SQUARE_DECAY))
    rate = jnp.where(active, lr, 0) / (1 - _MEAN_DECAY**t)
    unbias = 1 / (1 - _SQUARE_DECAY**t)

    def leaf(x, g, m, v):
        if weight_decay:
            g = g + weight_decay * x
        m = mean_decay * m + mean_share * g
        v = square_decay * v + square_share * g**2
        return x - rate * m / (jnp.sqrt(v * unbias) + _EPSILON), m, v

    trees = (parameters, gradient, state.mean, state.square)
    stepped = [leaf(*each) for each in zip(*map(jax.tree.leaves, trees), strict=True)]
    structure = jax.tree.structure(parameters)
    moved, mean, square = (
        jax.tree.unflatten(structure, part) for part in zip(*stepped, strict=True)
    )
    return moved, AdamState(steps, mean, square)


def gradient_of_table(rows: jax.Array, gradient: jax.Array, num_rows: int) -> jax.Array:
    """A table's gradient, from that of the rows that a batch gathered from it.

    Rows that were gathered several times are added up. The result is a gather from a small array
    of sums, which XLA makes a part of the step that uses it; an array of the table's size would be
    cleared, added to and read, all for rows that are mostly 0.

    Args:
      rows: integers of any shape, 0 ≤ rows < num_rows.
      gradient: [*rows.shape, d] float.
      num_rows: T.

    Returns:
      [T, d].
    """
    rows, gradient = rows.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
    count = len(rows)
    if count >= num_rows:  # nothing to save
        return jnp.zeros((num_rows, gradient.shape[1]), gradient.dtype).at[rows].add(gradient)
    # Each row's sum lies where the row comes first in the batch.
    first = jnp.full(num_rows, count, jnp.int32).at[rows].min(jnp.arange(count, dtype=jnp.int32))
    sums = jnp.zeros_like(gradient).at[first[rows]].add(gradient)
    gathered = first < count
    return jnp.where(gathered[:, None], sums[jnp.where(gathered, first, 0)], 0)
