"""Local training once more, in float64 NumPy, one batch and one formula at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.batches import ClientData, for_each_batch
from tests.losses.reference import cross_entropy, cross_entropy_gradient

__all__ = ["Samples", "batches_of", "train"]

_ROOM = 300  # more batches than any client of the tests has


class Samples(NamedTuple):
    """One batch without its padding: items, local users and labels, [n] each."""

    items: np.ndarray
    users: np.ndarray
    labels: np.ndarray


def batches_of(
    key: jax.Array, data: ClientData, num_items: int, options: Any, samples: Any = None
) -> list[Samples]:
    """The batches that a client's round with this key is made of.

    ``samples``, a ``batches.Samples``, are those to shuffle; None: drawn with the key.
    """
    count, rows = _recorded(
        key,
        data,
        num_items=num_items,
        negatives=options.negatives,
        batch_size=options.batch_size,
        epochs=options.local_epochs,
        samples=samples,
    )
    kept = [row[:, row[3] == 1] for row in np.asarray(rows)[: int(count)]]
    return [Samples(*row[:3]) for row in kept if row.shape[1]]


@partial(jax.jit, static_argnames=("num_items", "negatives", "batch_size", "epochs"))
def _recorded(key, data, *, batch_size, **options):
    def step(carry, batch):
        count, rows = carry
        users = jnp.broadcast_to(batch.users, batch.items.shape)
        row = jnp.stack([batch.items, users, batch.labels, batch.mask]).astype(jnp.int32)
        return count + 1, rows.at[count].set(row)

    blank = jnp.zeros((_ROOM, 4, batch_size), jnp.int32)
    return for_each_batch(key, data, step, (jnp.int32(0), blank), batch_size=batch_size, **options)


def train(users, bias, items, batches, *, lr, item_lr, user_first, table_gradient=None):
    """SGD on score(u, i) = users_u·items_i + bias_u.

    Args:
      users: [U, d] heads or embeddings.
      bias: [U], or None: no bias.
      items: [m, d].
      batches: list of ``Samples``.
      lr, item_lr: rates of the two sides.
      user_first: PFedRec's two steps a batch; False: FedMF's joint step.
      table_gradient: items -> [m, d], the gradient of a further loss on the whole table.

    Returns:
      users, bias, items and the mean loss, each batch's before its step.
    """
    users, items = np.array(users, np.float64), np.array(items, np.float64)
    bias = np.zeros(len(users)) if bias is None else np.array(bias, np.float64)
    with_bias = bias.any()
    losses = []
    for batch in batches:
        kept = np.ones(len(batch.items))
        i, u = batch.items, batch.users

        logits = (items[i] * users[u]).sum(axis=1) + bias[u]
        losses.append(cross_entropy(logits, batch.labels, kept))
        residual = cross_entropy_gradient(logits, batch.labels, kept)
        by_user, by_bias = np.zeros_like(users), np.zeros_like(bias)
        np.add.at(by_user, u, residual[:, None] * items[i])
        np.add.at(by_bias, u, residual)
        scored_by = users.copy()
        users = users - lr * by_user
        if with_bias:
            bias = bias - lr * by_bias

        if user_first:
            scored_by = users
            logits = (items[i] * users[u]).sum(axis=1) + bias[u]
            residual = cross_entropy_gradient(logits, batch.labels, kept)
        by_item = np.zeros_like(items)
        np.add.at(by_item, i, residual[:, None] * scored_by[u])
        if table_gradient is not None:
            by_item += table_gradient(items)
        items = items - item_lr * by_item
    return users, bias, items, float(np.mean(losses))
