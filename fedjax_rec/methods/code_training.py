"""Local training of RQFedRec's codebooks themselves, with no item embeddings in between."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.batches import ClientData, Samples
from fedjax_rec.methods.codebook_fit import Channels
from fedjax_rec.methods.contract import Info
from fedjax_rec.methods.local_training import LocalTraining, train_locally
from fedjax_rec.models import MF

__all__ = ["train_codebooks"]


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
      key, user, data, options, num_items: as ``train_locally``, of matrix factorization.
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
    user, table, info = train_locally(
        key,
        MF(data.num_users),
        user,
        table,
        data,
        options,
        user_first=False,
        samples=samples._replace(items=codes[samples.items]),
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
