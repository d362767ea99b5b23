"""Local training under RQFedRec: of the items that a client touched, or of its codebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.batches import Batch, ClientData, Samples
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods.codebook_fit import Channels
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.local_training import LocalTraining, continue_training, fresh_optimizers
from fedjax_rec.models import MF, score

__all__ = ["train_codebooks", "train_rows"]


def train_rows(
    key: jax.Array,
    user: Any,
    table: jax.Array,
    samples: Samples,
    data: ClientData,
    options: LocalTraining,
    *,
    num_items: int,
    items_of: Callable[[jax.Array], jax.Array] = lambda rows: rows,
) -> tuple[Any, jax.Array, Info]:
    """Trains a client's users and a table by BCE of matrix factorization, from fresh optimizers.

    Args:
      key: the client's key for this round.
      user: MF parameters.
      table: [T, d] rows to train.
      samples: the round's; ``samples.items`` are rows of the table, [N] or [N, R].
      data: the client's positives.
      options: rates, epochs.
      num_items: m.
      items_of: what the gathered rows, [B, d] or [B, R, d], amount to: [B, d] items.

    Returns:
      The trained users, the trained [T, d] table, and the mean loss of the batches.
    """
    model = MF(data.num_users)

    def objective(user: Any, rows: jax.Array, batch: Batch) -> jax.Array:
        logits = score(model, user, batch.users, items_of(rows))
        return binary_cross_entropy(logits, batch.labels, batch.mask)

    trained = continue_training(
        key,
        objective,
        user,
        table,
        fresh_optimizers(user, table, options),
        data,
        options,
        user_first=False,
        samples=samples,
        num_items=num_items,
    )
    return trained.user, trained.items, trained.info


def train_codebooks(
    key: jax.Array,
    user: Any,
    channels: Channels,
    samples: Samples,
    data: ClientData,
    options: LocalTraining,
    *,
    num_items: int,
) -> tuple[Any, Channels, Info]:
    """Trains a client's users and both codebooks on its interactions: an item is a sum of 2·L rows.

    Args:
      key, user, data, options, num_items: as ``train_rows``.
      channels: with the codes of the items that ``samples.items`` [N] name.
      samples: the round's.

    Returns:
      The trained users, the channels with trained codebooks (a channel without weight as it was),
      and the mean loss of the batches.

    Reference:
      RQFedRec's ablation without item embeddings.
    """
    semantic, collaborative, weight = channels
    levels, words, dim = semantic.codebook.shape
    table = jnp.concatenate([c.codebook.reshape(-1, dim) for c in (semantic, collaborative)])
    codes = jnp.concatenate([semantic.codes, collaborative.codes], axis=1).astype(jnp.int32)
    codes = codes + words * jnp.arange(2 * levels)
    shares = jnp.repeat(jnp.stack([1 - weight, weight]), levels)
    user, table, info = train_rows(
        key,
        user,
        table,
        samples._replace(items=codes[samples.items]),
        data,
        options,
        num_items=num_items,
        items_of=lambda rows: jnp.einsum("bld,l->bd", rows, shares),
    )
    books = table.reshape(2, levels, words, dim)
    # A channel without weight has no gradient, but weight decay would shrink it.
    own = jnp.where(weight < 1, books[0], semantic.codebook)
    learnt = jnp.where(weight > 0, books[1], collaborative.codebook)
    trained = Channels(
        semantic._replace(codebook=own), collaborative._replace(codebook=learnt), weight
    )
    return user, trained, info
