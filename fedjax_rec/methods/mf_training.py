"""Local training of matrix factorization, with what it may remember from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from fedjax_rec.batches import Batch, ClientData, Samples
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy, elementwise_mse
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.local_training import LocalTraining, continue_training, fresh_optimizers
from fedjax_rec.models import MF, score

__all__ = ["MFTraining", "Memory", "initial_memory", "negatives_key", "train_mf"]


@dataclass(frozen=True)
class MFTraining(LocalTraining):
    """Options of matrix factorization's local training, beside those of all methods.

    The defaults are those of the family. The ratio split's releases differ in all of them.

    Attributes:
      loss: "bce" of σ(u·v), or "mse": each product u_k·v_k against 1 or 0, elementwise. Scores are
        u·v in either case.
      keep_optimizer: keep the optimizer's state from round to round; else it is rebuilt.
      resample_negatives: draw other negatives every round; else each client's first draw stays.
    """

    loss: Literal["bce", "mse"] = "bce"
    keep_optimizer: bool = False
    resample_negatives: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("bce", "mse"):
            raise InputError(f"loss={self.loss!r} is not known: use 'bce' or 'mse'")


class Memory(NamedTuple):
    """What a client's training remembers between rounds, beside its embeddings.

    Attributes:
      optimizers: ``Optimizers``; () where they are rebuilt every round.
      samples_key: [2] uint32, data of the key that its negatives are drawn with; () where they
        are drawn anew every round. A part of the state, since the engine's keys are per round.
    """

    optimizers: Any
    samples_key: Any


def initial_memory(key: jax.Array, user: Any, items: jax.Array, options: MFTraining) -> Memory:
    """The memory of a client that has not trained yet.

    Args:
      key: of the client, before the first round; what it already drew stays independent.
      user: MF parameters.
      items: [m, d] item table.
      options: what there is to remember.
    """
    return Memory(
        fresh_optimizers(user, items, options) if options.keep_optimizer else (),
        () if options.resample_negatives else jax.random.key_data(jax.random.fold_in(key, 1)),
    )


def negatives_key(memory: Memory) -> jax.Array | None:
    """The key of a client's negatives where they stay the same in all rounds; else None."""
    if isinstance(memory.samples_key, tuple):
        return None
    return jax.random.wrap_key_data(memory.samples_key, impl="threefry2x32")


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

    Returns:
      The trained parameters, the [m, d] items, the new memory, and the mean loss of the batches.
    """
    model = MF(data.num_users)

    def objective(user: Any, rows: jax.Array, batch: Batch) -> jax.Array:
        if options.loss == "mse":
            products = user["embedding"][batch.users] * rows
            return elementwise_mse(products, batch.labels, batch.mask, width=width)
        logits = score(model, user, batch.users, rows)
        return binary_cross_entropy(logits, batch.labels, batch.mask)

    optimizers = memory.optimizers
    if not options.keep_optimizer:
        optimizers = fresh_optimizers(user, items, options)
    trained = continue_training(
        key,
        objective,
        user,
        items,
        optimizers,
        data,
        options,
        user_first=False,
        samples_key=negatives_key(memory),
        samples=samples,
        num_items=num_items,
    )
    kept = trained.optimizers if options.keep_optimizer else ()
    return trained.user, trained.items, memory._replace(optimizers=kept), trained.info
