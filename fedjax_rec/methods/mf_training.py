"""Local training of matrix factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_rec.batches import Batch, ClientData, Samples, draw_round, epoch_order
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy, elementwise_mse
from fedjax_rec.losses.kernel_choice import chosen_kernel
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.local_training import LocalTraining, train_locally
from fedjax_rec.methods.memory import Memory, Remembering, negatives_key, train_remembering
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import MF, score
from fedjax_rec.native import train_mf_by_adam

__all__ = ["MFTraining", "train_mf", "train_mf_afresh"]


@dataclass(frozen=True)
class MFTraining(Remembering):
    """Options of matrix factorization's local training, beside those of all methods.

    The defaults are those of the family. The ratio split's releases differ in all of them.

    Attributes:
      loss: "bce" of σ(u·v), or "mse": each product u_k·v_k against 1 or 0, elementwise. Scores are
        u·v in either case.
    """

    loss: Literal["bce", "mse"] = "bce"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("bce", "mse"):
            raise InputError(f"loss={self.loss!r} is not known: use 'bce' or 'mse'")


def train_mf(
    key: jax.Array,
    user: Any,
    items: jax.Array,
    memory: Memory,
    data: ClientData,
    options: MFTraining,
    *,
    width: jax.Array | int | None = None,
    samples: Samples | None = None,
    num_items: int | None = None,
    teacher: Teacher | None = None,
) -> tuple[Any, jax.Array, Memory, Info]:
    """Trains one client's user and item embeddings, in one joint step a batch.

    Args:
      key: the client's key for this round.
      user: MF parameters.
      items: [m, d] item table.
      memory: of the round before, or ``initial_memory``.
      data: the client's positives.
      options: loss, optimizer, rates, epochs.
      width: [] int, columns that the client uses, the first ones; None: all d. The others are
        zero and stay so: a column that is zero in both factors has no gradient in either.
      samples: as ``continue_training``; None: drawn here.
      num_items: as ``continue_training``.
      teacher: what draws predictions beside the labels, by row of ``items``; None: nothing.

    Returns:
      The trained parameters, the [m, d] items, the new memory, and the mean loss of the batches.
    """
    model = MF(data.num_users)
    plain = options.loss == "bce" and teacher is None and width is None
    if plain and not options.keep_optimizer and _native(options):
        if samples is None:
            samples_key = negatives_key(memory)
            samples = draw_round(key, data, len(items), options.negatives, samples_key=samples_key)
        user, items, info = train_mf_afresh(
            key, user, items, data, options, samples=samples, num_items=num_items
        )
        return user, items, memory, info

    def objective(user: Any, rows: jax.Array, batch: Batch) -> jax.Array:
        if options.loss == "mse":
            products = user["embedding"][batch.users] * rows
            return elementwise_mse(products, batch.labels, batch.mask, width=width)
        logits = score(model, user, batch.users, rows)
        loss = binary_cross_entropy(logits, batch.labels, batch.mask)
        return loss if teacher is None else loss + teacher.pull(logits, batch)

    return train_remembering(
        key, objective, user, items, memory, data, options, samples=samples, num_items=num_items
    )


def train_mf_afresh(
    key: jax.Array,
    user: Any,
    items: jax.Array,
    data: ClientData,
    options: LocalTraining,
    *,
    samples: Samples,
    num_items: int | None = None,
) -> tuple[Any, jax.Array, Info]:
    """Trains one client's user and item embeddings by BCE, with optimizers that are rebuilt.

    Under ``--kernel native``, Adam's steps are those of ``native.train_mf_by_adam``.

    Args:
      key: the client's key for this round.
      user: MF parameters.
      items: [m, d] item table.
      data: the client's positives.
      options: optimizer, rates, epochs.
      samples: as ``continue_training``.
      num_items: as ``continue_training``.

    Returns:
      The trained parameters, the [m, d] items, and the mean loss of the batches.
    """
    if not _native(options):
        return train_locally(
            key,
            MF(data.num_users),
            user,
            items,
            data,
            options,
            user_first=False,
            samples=samples,
            num_items=num_items,
        )
    orders = [
        epoch_order(key, epoch, samples, options.batch_size)
        for epoch in range(options.local_epochs)
    ]
    given = traced(options)
    users, items, loss = train_mf_by_adam(
        user["embedding"],
        items,
        samples,
        jnp.stack(orders),
        lr=given.lr,
        item_lr=given.items_rate(len(items) if num_items is None else num_items),
        weight_decay=given.weight_decay,
        batch_size=options.batch_size,
        negatives=options.negatives,
    )
    return {**user, "embedding": users}, items, Info(loss)


def _native(options):
    return chosen_kernel().kernel == "native" and options.optimizer == "adam"
