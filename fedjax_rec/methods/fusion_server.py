"""GFMFR's server on the device: means of groups, the fusion network's training, preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.methods.adam import fresh_adam, take_adam_step
from fedjax_rec.models import FusionNetwork

__all__ = ["GroupMeans", "Training", "group_means", "group_preferences", "train_network"]


class GroupMeans(NamedTuple):
    """What the clients of each group uploaded, averaged.

    Attributes:
      tables: [g, m, d] float32, item tables.
      heads: [g, h] float32.
      present: [g] bool, whether anybody of it took part; the other groups have zeros.
    """

    tables: jax.Array
    heads: jax.Array
    present: jax.Array


class Training(NamedTuple):
    """How the fusion network is trained.

    Attributes:
      epochs: passes over all items.
      batch_size: items a batch; each counts for every group.
      lr: Adam's learning rate.
    """

    epochs: int
    batch_size: int
    lr: float


def group_means(tables: jax.Array, heads: jax.Array, group: jax.Array, groups: int) -> GroupMeans:
    """Plain means by group.

    Args:
      tables: [R, m, d] float32, sharded by rows.
      heads: [R, h] float32.
      group: [R] int32, each row's group; -1: it does not count, whatever is in it.
      groups: g.
    """
    group = jnp.where(group >= 0, group, groups)  # beyond the last: dropped, were it NaN

    def total(values: jax.Array) -> jax.Array:
        return jnp.zeros((groups, *values.shape[1:])).at[group].add(values, mode="drop")

    counts = total(jnp.ones(len(group)))
    each = jnp.maximum(counts, 1)
    return GroupMeans(total(tables) / each[:, None, None], total(heads) / each[:, None], counts > 0)


def train_network(
    key: jax.Array,
    model: FusionNetwork,
    parameters: Any,
    content: Sequence[jax.Array],
    means: GroupMeans,
    training: Training,
) -> tuple[Any, jax.Array, jax.Array]:
    """Fits the network to the groups' tables by MSE, with an Adam of its own.

    It learns them in units of their root mean square: tables grow a hundredfold over the rounds,
    and a network that begins at the wrong size would spend its epochs on nothing else.

    Args:
      key: of the batches' order.
      model: the network.
      parameters: its parameters before.
      content: the modalities, each [m, w].
      means: what to fit; groups of nobody do not count.
      training: epochs, batches, rate.

    Returns:
      The parameters, the [g, m, d] fused tables, and their error []: the MSE over the groups
      present, divided by that of each group's mean row. 1: content tells nothing of the items.
    """
    _, m, d = means.tables.shape
    square = jnp.mean(means.tables**2, axis=(1, 2))
    scale = jnp.sqrt(jnp.sum(square) / jnp.maximum(jnp.sum(means.present), 1))
    scale = jnp.where(scale > 0, scale, 1)
    tables = means.tables / scale
    size = min(training.batch_size, m)
    batches = -(-m // size)
    weight = means.present / (d * jnp.maximum(jnp.sum(means.present), 1))

    def fused(parameters: Any, content: Sequence[jax.Array]) -> jax.Array:
        out: Any = model.apply({"params": parameters}, content)
        return out

    def loss(parameters: Any, items: jax.Array, mask: jax.Array) -> jax.Array:
        found = fused(parameters, [vectors[items] for vectors in content])
        square = (found - tables[:, items]) ** 2 * mask[:, None] * weight[:, None, None]
        return jnp.sum(square) / jnp.maximum(jnp.sum(mask), 1)

    def epoch(number: jax.Array, carry: Any) -> Any:
        order = jax.random.permutation(jax.random.fold_in(key, number), m)
        order = jnp.pad(order, (0, batches * size - m))

        def batch(index: jax.Array, carry: Any) -> Any:
            parameters, state = carry
            start = index * size
            items = jax.lax.dynamic_slice_in_dim(order, start, size)
            gradient = jax.grad(loss)(parameters, items, start + jnp.arange(size) < m)
            return take_adam_step(parameters, gradient, state, lr=training.lr)

        return jax.lax.fori_loop(0, batches, batch, carry)

    start = parameters, fresh_adam(parameters)
    parameters, _ = jax.lax.fori_loop(0, training.epochs, epoch, start)
    out = fused(parameters, content)
    by_item = weight[:, None, None] / m
    left = jnp.sum(by_item * (out - tables) ** 2)
    spread = jnp.sum(by_item * (tables - jnp.mean(tables, axis=1, keepdims=True)) ** 2)
    return parameters, scale * out, left / jnp.maximum(spread, jnp.finfo(jnp.float32).tiny)


def group_preferences(
    score_items: Callable[[jax.Array, jax.Array], jax.Array],
    heads: jax.Array,
    tables: jax.Array,
) -> jax.Array:
    """Probabilities [g, m] that each group's head gives to the items of its table.

    Args:
      score_items: ([h] head, [m, d] items) -> [m] logits.
      heads: [g, h].
      tables: [g, m, d].
    """
    return jax.nn.sigmoid(jax.vmap(score_items)(heads, tables))
