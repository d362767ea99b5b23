"""What a client's training may remember from round to round, beside its embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fedjax_rec.batches import ClientData, Samples
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.local_training import (
    LocalTraining,
    Objective,
    continue_training,
    fresh_optimizers,
)

__all__ = ["Memory", "Remembering", "initial_memory", "negatives_key", "train_remembering"]


@dataclass(frozen=True)
class Remembering(LocalTraining):
    """Options of local training that goes on where the round before stopped.

    Attributes:
      keep_optimizer: keep the optimizer's state from round to round; else it is rebuilt.
      resample_negatives: draw other negatives every round; else each client's first draw stays.
    """

    keep_optimizer: bool = False
    resample_negatives: bool = True


class Memory(NamedTuple):
    """What a client's training remembers between rounds.

    Attributes:
      optimizers: ``Optimizers``; () where they are rebuilt every round.
      samples_key: [2] uint32, data of the key that its negatives are drawn with; () where they
        are drawn anew every round. A part of the state, since the engine's keys are per round.
    """

    optimizers: Any
    samples_key: Any


def initial_memory(key: jax.Array, user: Any, items: jax.Array, options: Remembering) -> Memory:
    """The memory of a client that has not trained yet.

    Args:
      key: of the client, before the first round; what it already drew stays independent.
      user: the user side, a pytree.
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


def train_remembering(
    key: jax.Array,
    objective: Objective,
    user: Any,
    items: jax.Array,
    memory: Memory,
    data: ClientData,
    options: Remembering,
    *,
    samples: Samples | None = None,
    num_items: int | None = None,
) -> tuple[Any, jax.Array, Memory, Info]:
    """Trains one client's user side and items, in one joint step a batch.

    Args:
      key: the client's key for this round.
      objective: as ``continue_training``.
      user: the user side, a pytree.
      items: [m, d] item table.
      memory: of the round before, or ``initial_memory``.
      data: the client's positives.
      options: optimizer, rates, epochs.
      samples: as ``continue_training``; None: drawn here.
      num_items: as ``continue_training``.

    Returns:
      The trained user side, the [m, d] items, the new memory, and the mean loss of the batches.
    """
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
