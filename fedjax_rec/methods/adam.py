"""Adam, in forms that pass over a table and its moments as seldom as can be.

At d = 512 the items and their two moments are 8 MB each: a step takes as long as reading and
writing them takes, and nothing else about it matters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "MOST_DEFERRED",
    "AdamState",
    "Deferred",
    "defer",
    "fresh_adam",
    "settle",
    "take_adam_step",
    "take_row_step",
]

MOST_DEFERRED = 512  # steps before ``settle``: β1^−512 is 2.7e23, and float32 ends at 3.4e38
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


class Deferred(NamedTuple):
    """An ``AdamState`` of a table whose moments' decay is put off: m = β1^k·mean, v = β2^k·square.

    Attributes:
      steps: [] int32, t, steps so far.
      taken: [] int32, k, those of them since the decay was put off.
      mean: [T, d].
      square: [T, d].
    """

    steps: jax.Array
    taken: jax.Array
    mean: jax.Array
    square: jax.Array


def take_adam_step(
    parameters: Any,
    gradient: Any,
    state: AdamState,
    *,
    lr: float | jax.Array,
    weight_decay: float | jax.Array | None = None,
    active: jax.Array | bool = True,
) -> tuple[Any, AdamState]:
    """One step:

        g ← g + λ·x,    m ← β1·m + (1 − β1)·g,    v ← β2·v + (1 − β2)·g²,
        x ← x − η/(1 − β1^t) · m / (√(v/(1 − β2^t)) + ε).

    Zero gradients are no reason to leave a row out: its moments decay, and it goes on moving by
    what they were. Whether the step is taken at all enters as numbers: selecting the old or the new
    arrays afterwards would pass over all of them once more.

    Args:
      parameters: pytree of float arrays, x.
      gradient: likewise, g.
      state: of the step before.
      lr: η.
      weight_decay: λ, L2 regularization as in torch's Adam (not AdamW's); None: none.
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
        if weight_decay is not None:
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


def defer(state: AdamState) -> Deferred:
    """The state of one table, ready for up to ``MOST_DEFERRED`` calls of ``take_row_step``."""
    return Deferred(state.steps, jnp.int32(0), state.mean, state.square)


def settle(state: Deferred) -> AdamState:
    """The decay that was put off is made up for."""
    taken = state.taken.astype(jnp.float32)
    mean, square = _MEAN_DECAY**taken * state.mean, _SQUARE_DECAY**taken * state.square
    return AdamState(state.steps, mean, square)


def take_row_step(
    table: jax.Array,
    rows: jax.Array,
    gradient: jax.Array,
    state: Deferred,
    *,
    lr: float | jax.Array,
    active: jax.Array | bool = True,
) -> tuple[jax.Array, Deferred]:
    """``take_adam_step`` of a table, of which a batch gathered a few rows; without weight decay.

    Exact, but for rounding: the moments of all rows decay by the same factor, so it is kept as a
    number, and what is added to the gathered rows' moments is divided by it. So only these rows'
    moments are written. The table is passed over once, with both moments read, since all of it
    goes on moving: 3 arrays read and 1 written, where XLA reads 7 and writes 3 for
    ``take_adam_step``.

        mean_i ← mean_i + (1 − β1)/β1^k · g_i,    square_i ← square_i + (1 − β2)/β2^k · g_i²,
        x ← x − η/(1 − β1^t) · β1^k·mean / (√(β2^k·square/(1 − β2^t)) + ε).

    Args:
      table: [T, d], x.
      rows: integers of any shape, 0 ≤ rows < T; those that come twice are added up.
      gradient: [*rows.shape, d], g.
      state: of the step before.
      lr: η.
      active: as ``take_adam_step``.

    Returns:
      The new table and state.
    """
    active = jnp.asarray(active)
    rows, gradient = rows.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
    # Squares are of sums: each row's sum lies where it comes first in the batch, elsewhere are 0s.
    place = jnp.arange(len(rows), dtype=jnp.int32)
    first = jnp.full(len(table), len(rows), jnp.int32).at[rows].min(place)
    sums = jnp.zeros_like(gradient).at[first[rows]].add(gradient)

    taken, steps = state.taken + active, state.steps + active
    k, t = taken.astype(jnp.float32), jnp.maximum(steps, 1).astype(jnp.float32)
    mean_factor, square_factor = _MEAN_DECAY**k, _SQUARE_DECAY**k
    mean_share = jnp.where(active, (1 - _MEAN_DECAY) / mean_factor, 0)
    square_share = jnp.where(active, (1 - _SQUARE_DECAY) / square_factor, 0)
    mean = state.mean.at[rows].add(mean_share * sums)
    square = state.square.at[rows].add(square_share * sums**2)
    rate = jnp.where(active, lr, 0) * mean_factor / (1 - _MEAN_DECAY**t)
    unbias = square_factor / (1 - _SQUARE_DECAY**t)
    table = table - rate * mean / (jnp.sqrt(unbias * square) + _EPSILON)
    return table, Deferred(steps, taken, mean, square)
