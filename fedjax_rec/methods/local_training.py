"""Local training that the embedding methods share: a private user side, a table of items, BCE.

Gradients are taken with respect to the rows that a batch gathers, never through the table: the
dense gradient of a table that a batch touches in a few hundred rows would be most of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fedjax_rec import uplink
from fedjax_rec.batches import Batch, ClientData, for_each_batch
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods.contract import Info
from fedjax_rec.models import LinearHead, score

__all__ = ["LocalTraining", "Uplink", "initial_head", "train_locally"]


@dataclass(frozen=True)
class LocalTraining:
    """Options of local training, the same for every method that trains embeddings.

    Attributes:
      dim: d, length of an item embedding.
      optimizer: rebuilt every round. The reference implementations of this family use SGD.
      lr: learning rate η of the user side (head or user embedding).
      item_lr_scale: the items' learning rate is η · m · this. The reference setting, 80, makes up
        for the mean over clients of a loss that is itself a mean over a batch.
      batch_size: samples a batch.
      negatives: sampled negatives a positive, drawn anew every round.
      local_epochs: passes over the round's samples.
      init_std: standard deviation of the initial item embeddings.
    """

    dim: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    item_lr_scale: float = 80.0
    batch_size: int = 256
    negatives: int = 4
    local_epochs: int = 1
    init_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("dim", "batch_size", "negatives", "local_epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("lr", "item_lr_scale", "init_std"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if self.optimizer not in ("sgd", "adam"):
            raise InputError(f"optimizer={self.optimizer!r} is not known: use 'sgd' or 'adam'")

    def initial_items(self, key: jax.Array, num_items: int) -> jax.Array:
        """[m, d] float32 from N(0, init_std²)."""
        return self.init_std * jax.random.normal(key, (num_items, self.dim))


@dataclass(frozen=True)
class Uplink:
    """What happens to an upload before it leaves the client, in this order.

    Attributes:
      clip: bound on the Euclidean norm of each uploaded row; None: no bound.
      laplace: scale δ of Laplace noise added to every entry. Gives an ε only with --clip.
      bits: bits of row-wise min–max quantization; None: float32.
    """

    clip: float | None = None
    laplace: float | None = None
    bits: int | None = None

    def transform(self) -> uplink.Transform:
        """The composed transform; raises InputError for values out of range."""
        steps = []
        if self.clip is not None:
            steps.append(uplink.clip_rows(self.clip))
        if self.laplace:
            steps.append(uplink.laplace(self.laplace))
        if self.bits is not None:
            steps.append(uplink.quantize_rows(self.bits))
        return uplink.chain(*steps)

    def epsilon(self, table: Any, rounds: int) -> float | None:
        """ε of a client that uploads ``table`` ([m, d], or its shape struct) ``rounds`` times.

        None where there is none: no noise, or no clip to bound what it hides.
        """
        rows, dim = table.shape
        return uplink.epsilon(self.clip, self.laplace, rows=rows, dim=dim, rounds=rounds)


def initial_head(key: jax.Array, problem: Problem, dim: int) -> Any:
    """The linear head that every client starts from: one draw, a copy for each of its users."""
    users = int(problem.users_per_client.max())
    return LinearHead(users).init(key, jnp.int32(0), jnp.zeros((1, dim)))["params"]


class _Carry(NamedTuple):
    user: Any
    items: jax.Array
    user_optimizer: Any
    item_optimizer: Any
    loss: jax.Array
    batches: jax.Array


def train_locally(
    key: jax.Array,
    model: nn.Module,
    user: Any,
    items: jax.Array,
    data: ClientData,
    options: LocalTraining,
    *,
    user_first: bool,
    regularizer: Callable[[jax.Array], jax.Array] | None = None,
    regularize: jax.Array | bool = True,
) -> tuple[Any, jax.Array, Info]:
    """Trains one client's user side and item table on its round's batches.

    Args:
      key: the client's key for this round.
      model: score function, (user slots, item rows) -> logits.
      user: the user side, parameters of ``model``.
      items: [m, d] item table.
      data: the client's positives.
      options: optimizer, rates, epochs.
      user_first: step the user side first, and the items on a fresh forward pass (PFedRec and its
        family). False: one joint step from one forward pass (FedMF).
      regularizer: [m, d] -> scalar, a loss on the whole table, added to the items' objective.
      regularize: [] bool, whether there is anything for the regularizer to use yet. Must not
        depend on the client: it skips the work, which a batched condition would not.

    Returns:
      The trained user side and [m, d] items, and the mean BCE of the batches.
    """
    num_items = items.shape[0]
    item_lr = options.lr * num_items * options.item_lr_scale
    user_rule = _optimizer(options.optimizer, options.lr)
    # Plain SGD needs no state and leaves untouched rows alone: only its rows are ever written.
    item_rule = None if options.optimizer == "sgd" else _optimizer(options.optimizer, item_lr)

    def loss_of(user, rows, batch):
        logits = score(model, user, batch.users, rows)
        return binary_cross_entropy(logits, batch.labels, batch.mask)

    def step(carry: _Carry, batch: Batch) -> _Carry:
        active = jnp.any(batch.mask)
        rows = carry.items[batch.items]
        loss, (user_gradient, row_gradient) = jax.value_and_grad(loss_of, argnums=(0, 1))(
            carry.user, rows, batch
        )
        user, user_optimizer = _apply(
            user_rule, user_gradient, carry.user_optimizer, carry.user, active
        )
        if user_first:
            row_gradient = jax.grad(loss_of, argnums=1)(user, rows, batch)

        if item_rule is None:
            table = carry.items
            if regularizer is not None:
                table = jax.lax.cond(
                    regularize,
                    lambda e: e - jnp.where(active, item_lr, 0.0) * jax.grad(regularizer)(e),
                    lambda e: e,
                    table,
                )
            table = table.at[batch.items].add(-item_lr * row_gradient)
            item_optimizer = carry.item_optimizer
        else:
            gradient = jnp.zeros_like(carry.items)
            if regularizer is not None:
                gradient = jax.lax.cond(
                    regularize, jax.grad(regularizer), jnp.zeros_like, carry.items
                )
            gradient = gradient.at[batch.items].add(row_gradient)
            table, item_optimizer = _apply(
                item_rule, gradient, carry.item_optimizer, carry.items, active
            )
        return _Carry(
            user,
            table,
            user_optimizer,
            item_optimizer,
            carry.loss + loss,
            carry.batches + active,
        )

    carry = for_each_batch(
        key,
        data,
        step,
        _Carry(
            user,
            items,
            user_rule.init(user),
            None if item_rule is None else item_rule.init(items),
            jnp.float32(0),
            jnp.float32(0),
        ),
        num_items=num_items,
        negatives=options.negatives,
        batch_size=options.batch_size,
        epochs=options.local_epochs,
    )
    return carry.user, carry.items, Info(carry.loss / jnp.maximum(carry.batches, 1))


def _optimizer(name, lr):
    return optax.sgd(lr) if name == "sgd" else optax.adam(lr)


def _apply(rule, gradient, state, parameters, active):
    """One optimizer step, undone for a batch of padding (Adam moves on zero gradients too)."""
    updates, stepped = rule.update(gradient, state, parameters)
    updates = jax.tree.map(lambda u: jnp.where(active, u, 0), updates)
    state = jax.tree.map(lambda new, old: jnp.where(active, new, old), stepped, state)
    return optax.apply_updates(parameters, updates), state
