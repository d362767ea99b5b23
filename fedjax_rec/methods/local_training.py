"""Local training that the embedding methods share: a private user side, a table of items, BCE.

Gradients are taken with respect to the rows that a batch gathers, never through the table: the
dense gradient of a table that a batch touches in a few hundred rows would be most of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_rec.batches import Batch, ClientData, Samples, draw_round, for_each_batch
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods.adam import (
    MOST_DEFERRED,
    defer,
    fresh_adam,
    settle,
    take_adam_step,
    take_row_step,
)
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import LinearHead, score

__all__ = [
    "LocalTraining",
    "Objective",
    "Optimizers",
    "Trained",
    "check_layers",
    "continue_training",
    "decay_of",
    "fresh_optimizers",
    "initial_head",
    "train_locally",
]

# (user side, item rows of the batch, batch) -> scalar
Objective = Callable[[Any, jax.Array, Batch], jax.Array]
# ([m, d] item table, [] int32 batches trained on before this one in the round) -> scalar
Regularizer = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class LocalTraining:
    """Options of local training, the same for every method that trains embeddings.

    Attributes:
      dim: d, length of an item embedding.
      optimizer: rebuilt every round. The reference implementations of this family use SGD.
      lr: learning rate η of the user side (head or user embedding).
      item_lr_scale: the items' learning rate is η · m · this. The reference setting, 80, makes up
        for the mean over clients of a loss that is itself a mean over a batch.
      item_lr: the items' learning rate itself; None: η · m · item_lr_scale.
      weight_decay: λ. Adds λ·x to the gradient of every parameter x that a client trains, its
        users' side and its whole table of items, in every batch (as torch's optimizers do).
      batch_size: samples a batch.
      negatives: sampled negatives a positive, drawn anew every round.
      local_epochs: passes over the round's samples.
      init_std: standard deviation of the initial item embeddings.
    """

    dim: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    item_lr_scale: float = 80.0
    item_lr: float | None = None
    weight_decay: float = 0.0
    batch_size: int = 256
    negatives: int = 4
    local_epochs: int = 1
    init_std: float = 1.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("lr", "item_lr_scale", "item_lr", "weight_decay")

    def __post_init__(self) -> None:
        for name in ("dim", "batch_size", "negatives", "local_epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("lr", "item_lr_scale", "item_lr", "weight_decay", "init_std"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if self.optimizer not in ("sgd", "adam"):
            raise InputError(f"optimizer={self.optimizer!r} is not known: use 'sgd' or 'adam'")

    def items_rate(self, num_items: int) -> float:
        """The items' learning rate."""
        if self.item_lr is not None:
            return self.item_lr
        return self.lr * num_items * self.item_lr_scale

    def initial_items(self, key: jax.Array, num_items: int) -> jax.Array:
        """[m, d] float32 from N(0, init_std²)."""
        return self.init_std * jax.random.normal(key, (num_items, self.dim))


def check_layers(layers: Sequence[int]) -> None:
    """Raises InputError where hidden layers are none, or one has no units."""
    if not layers or min(layers) < 1:
        shown = " ".join(map(str, layers)) or "()"
        raise InputError(f"layers={shown}: give one number of units or more, each at least 1")


def decay_of(options: LocalTraining) -> jax.Array | float | None:
    """λ of the weight decay, for a program that is being traced; None: there is none."""
    return traced(options).weight_decay if options.weight_decay else None


def initial_head(key: jax.Array, problem: Problem, dim: int) -> Any:
    """The linear head that every client starts from: one draw, a copy for each of its users."""
    users = int(problem.users_per_client.max())
    return LinearHead(users).init(key, jnp.int32(0), jnp.zeros((1, dim)))["params"]


class Optimizers(NamedTuple):
    """State of a client's optimizers: ``AdamState``; () under SGD, which has none.

    Attributes:
      user: of the user side.
      items: of the item table.
    """

    user: Any
    items: Any


class Trained(NamedTuple):
    """What local training leaves: the user side, the [m, d] items, and how it got there."""

    user: Any
    items: jax.Array
    optimizers: Optimizers
    info: Info


def fresh_optimizers(user: Any, items: jax.Array, options: LocalTraining) -> Optimizers:
    """Optimizers that have not stepped yet, for a user side and an [m, d] table of items."""
    if options.optimizer == "sgd":
        return Optimizers((), ())
    return Optimizers(fresh_adam(user), fresh_adam(items))


def train_locally(
    key: jax.Array,
    model: nn.Module,
    user: Any,
    items: jax.Array,
    data: ClientData,
    options: LocalTraining,
    *,
    user_first: bool,
    regularizer: Regularizer | None = None,
    regularize: jax.Array | bool = True,
    samples: Samples | None = None,
    num_items: int | None = None,
    items_of: Callable[[jax.Array], jax.Array] = lambda rows: rows,
    teacher: Teacher | None = None,
) -> tuple[Any, jax.Array, Info]:
    """Trains one client's user side and item table on its round's batches, by BCE.

    Args:
      key: the client's key for this round.
      model: score function, (user slots, item rows) -> logits.
      user: the user side, parameters of ``model``.
      items: [m, d] item table.
      data: the client's positives.
      options: optimizer (rebuilt here), rates, epochs.
      user_first: as ``continue_training``.
      regularizer: as ``continue_training``.
      regularize: as ``continue_training``.
      samples: as ``continue_training``. Their ``items`` may name several rows each, [N, R].
      num_items: as ``continue_training``.
      items_of: what a batch's gathered rows, [B, d] or [B, R, d], amount to: [B, d] items.
      teacher: what draws predictions beside the labels, by row of ``items``; None: nothing.

    Returns:
      The trained user side and [m, d] items, and the mean BCE of the batches.
    """

    def cross_entropy(user: Any, rows: jax.Array, batch: Batch) -> jax.Array:
        logits = score(model, user, batch.users, items_of(rows))
        loss = binary_cross_entropy(logits, batch.labels, batch.mask)
        return loss if teacher is None else loss + teacher.pull(logits, batch)

    trained = continue_training(
        key,
        cross_entropy,
        user,
        items,
        fresh_optimizers(user, items, options),
        data,
        options,
        user_first=user_first,
        regularizer=regularizer,
        regularize=regularize,
        samples=samples,
        num_items=num_items,
    )
    return trained.user, trained.items, trained.info


class _Carry(NamedTuple):
    user: Any
    items: jax.Array
    optimizers: Optimizers
    loss: jax.Array
    batches: jax.Array


def continue_training(
    key: jax.Array,
    objective: Objective,
    user: Any,
    items: jax.Array,
    optimizers: Optimizers,
    data: ClientData,
    options: LocalTraining,
    *,
    user_first: bool,
    regularizer: Regularizer | None = None,
    regularize: jax.Array | bool = True,
    samples_key: jax.Array | None = None,
    samples: Samples | None = None,
    num_items: int | None = None,
) -> Trained:
    """Trains one client's user side and item table, from optimizers that may have a past.

    Args:
      key: the client's key for this round.
      objective: (user side, [B, d] item rows, batch) -> the batch's loss.
      user: the user side, a pytree.
      items: [m, d] item table.
      optimizers: as ``fresh_optimizers`` or an earlier call left them.
      data: the client's positives.
      options: rates, decay, epochs.
      user_first: step the user side first, and the items on a fresh forward pass (PFedRec and its
        family). False: one joint step from one forward pass (FedMF).
      regularizer: a loss on the whole table, added to the items' objective. It is told the number
        of the batch, so that it can draw anew for each; padding does not count.
      regularize: [] bool, whether there is anything for the regularizer to use yet. Must not
        depend on the client: it skips the work, which a batched condition would not.
      samples_key: as ``for_each_batch``.
      samples: as ``for_each_batch``: with ``items`` a table of the touched rows only, its items
        are rows of that table.
      num_items: m, where ``items`` is such a table; None: it has a row for every item.

    Returns:
      What is left after the last batch; ``info.loss`` is the mean objective of the batches.
    """
    num_items = items.shape[0] if num_items is None else num_items
    item_lr, decay = traced(options).items_rate(num_items), decay_of(options)
    if samples is None:
        samples = draw_round(key, data, num_items, options.negatives, samples_key=samples_key)
    by_rows = regularizer is None and _steps_by_rows(options, samples, items)
    if by_rows:
        optimizers = optimizers._replace(items=defer(optimizers.items))

    def step(carry: _Carry, batch: Batch) -> _Carry:
        active = jnp.any(batch.mask)
        number = carry.batches.astype(jnp.int32)
        rows = carry.items[batch.items]
        loss, (user_gradient, row_gradient) = jax.value_and_grad(objective, argnums=(0, 1))(
            carry.user, rows, batch
        )
        user, user_state = _step_user(
            carry.user, user_gradient, carry.optimizers.user, options, active
        )
        if user_first:
            row_gradient = jax.grad(objective, argnums=1)(user, rows, batch)

        def by_table(table: jax.Array) -> jax.Array:
            assert regularizer is not None
            return jax.grad(regularizer)(table, number)

        if options.optimizer == "sgd":
            # Without state, it leaves untouched rows alone: only a batch's own are ever written.
            table, item_state = carry.items, carry.optimizers.items
            if regularizer is not None:
                table = jax.lax.cond(
                    regularize,
                    lambda e: e - jnp.where(active, item_lr, 0.0) * by_table(e),
                    lambda e: e,
                    table,
                )
            if decay is not None:
                table = table - jnp.where(active, item_lr * decay, 0.0) * carry.items
            table = table.at[batch.items].add(-item_lr * row_gradient)
        elif by_rows:
            table, item_state = take_row_step(
                carry.items,
                batch.items,
                row_gradient,
                carry.optimizers.items,
                lr=item_lr,
                active=active,
            )
        else:
            gradient = jnp.zeros_like(carry.items)
            if regularizer is not None:
                gradient = jax.lax.cond(regularize, by_table, jnp.zeros_like, carry.items)
            gradient = gradient.at[batch.items].add(row_gradient)
            table, item_state = take_adam_step(
                carry.items,
                gradient,
                carry.optimizers.items,
                lr=item_lr,
                weight_decay=decay,
                active=active,
            )
        return _Carry(
            user,
            table,
            Optimizers(user_state, item_state),
            carry.loss + loss,
            carry.batches + active,
        )

    carry = for_each_batch(
        key,
        data,
        step,
        _Carry(user, items, optimizers, jnp.float32(0), jnp.float32(0)),
        num_items=num_items,
        negatives=options.negatives,
        batch_size=options.batch_size,
        epochs=options.local_epochs,
        samples=samples,
    )
    optimizers = carry.optimizers
    if by_rows:
        optimizers = optimizers._replace(items=settle(optimizers.items))
    info = Info(carry.loss / jnp.maximum(carry.batches, 1))
    return Trained(carry.user, carry.items, optimizers, info)


def _steps_by_rows(options, samples, items):
    """Whether Adam steps the table by ``take_row_step``, as far as options and shapes go."""
    batches = -(-len(samples.items) // options.batch_size)
    rows = options.batch_size * (samples.items.size // max(len(samples.items), 1))
    return (
        options.optimizer == "adam"
        and not options.weight_decay
        and options.local_epochs * batches <= MOST_DEFERRED
        and rows < len(items)
    )


def _step_user(user, gradient, state, options, active):
    """One step of the user side; none for a batch of padding."""
    lr, decay = traced(options).lr, decay_of(options)
    if options.optimizer == "adam":
        return take_adam_step(user, gradient, state, lr=lr, weight_decay=decay, active=active)
    if decay is not None:
        gradient = jax.tree.map(lambda x, g: g + decay * x, user, gradient)
    rate = jnp.where(active, lr, 0)
    return jax.tree.map(lambda x, g: x - rate * g, user, gradient), state
