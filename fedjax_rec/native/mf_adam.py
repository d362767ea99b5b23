"""Local training of matrix factorization by Adam, with the steps of untouched rows put off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.batches import Samples
from fedjax_rec.native.build import load

__all__ = ["train_mf_by_adam"]


def train_mf_by_adam(
    users: jax.Array,
    items: jax.Array,
    samples: Samples,
    order: jax.Array,
    *,
    lr: float | jax.Array,
    item_lr: float | jax.Array,
    weight_decay: float | jax.Array,
    batch_size: int,
    negatives: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Trains one client's users and items by BCE on u·v, one joint step of Adam a batch.

    The same steps as ``methods.adam.take_adam_step`` takes of both tables, rounding aside, with
    moments that start from zero. A row of ``items`` is passed over once for every batch that
    gathers it, and not once for every batch: in between its gradient is the decay's alone, so the
    steps can wait until the row is needed, and are then taken while it is in the first cache.

    Args:
      users: [U, d] float32.
      items: [T, d] float32.
      samples: the round's [N], the valid ones first; every (1 + negatives)-th is a positive.
      order: [E, N] int32, the samples' order in each epoch, the valid ones first.
      lr: Adam's rate for the users.
      item_lr: and for the items.
      weight_decay: λ, L2 regularization of both, as in torch's Adam.
      batch_size: samples a batch; the last of an epoch may be short.
      negatives: negatives a positive.

    Returns:
      The trained users and items, and the [] mean of the batches' losses.

    Raises:
      InputError: no C++ compiler, where it is first used.
    """
    name = load("mf_adam.cc", "MfAdam")
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (users, items)]
    call = jax.ffi.ffi_call(
        name, [*shapes, jax.ShapeDtypeStruct((1,), jnp.float32)], vmap_method="sequential"
    )
    valid = jnp.sum(samples.valid, dtype=jnp.int32)[None]
    users, items, loss = call(
        users,
        items,
        samples.items,
        samples.users,
        order,
        valid,
        jnp.array([lr, item_lr, weight_decay], jnp.float32),
        batch_size=np.int64(batch_size),
        samples_a_positive=np.int64(1 + negatives),
    )
    return users, items, loss[0]
