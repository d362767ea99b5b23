"""How many pairs of items reach each of several cosine thresholds: one blocked pass for them all.

No m × m array exists: a tile of similarities is made, counted at every threshold, and dropped.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import dot
from fedjax_rec.losses.structural import normalize
from fedjax_rec.tiles import Grid, grid

__all__ = ["PairCounts", "pair_counts"]

MOST_ITEMS = 65_536  # whose pairs an int32 can count


class PairCounts(NamedTuple):
    """Numbers of pairs i < j of different items.

    Attributes:
      clients: [K, T] int64, pairs whose similarity at client k reaches threshold t: the non-zeros
        of M_u above its diagonal.
      union: [T] int64, pairs that reach it at one client or more: those of M_g.
    """

    clients: np.ndarray
    union: np.ndarray


def pair_counts(embeddings: jax.Array | np.ndarray, thresholds: tuple[float, ...]) -> PairCounts:
    """Counts the pairs of every client at every threshold.

    Args:
      embeddings: [K, m, d] float32, one table of items a client, 2 ≤ m ≤ 65,536.
      thresholds: σ, each above 0 and at most 1.

    Raises:
      InputError: another shape, a number of items out of range, or a threshold out of range.

    Example:
      >>> tables = np.array([[[1, 0], [2, 0], [0, 1]], [[1, 0], [0, 1], [0, 1]]], np.float32)
      >>> found = pair_counts(tables, (0.5,))
      >>> found.clients.tolist(), found.union.tolist()
      ([[1], [1]], [2])
    """
    if embeddings.ndim != 3 or not 2 <= embeddings.shape[1] <= MOST_ITEMS:
        raise InputError(
            f"embeddings of shape {tuple(embeddings.shape)}: give [clients, items, dim] with 2 to "
            f"{MOST_ITEMS:,} items"
        )
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise InputError(f"threshold={threshold} must be above 0 and at most 1")
    found = _count(jnp.asarray(embeddings), jnp.array(thresholds), grid(embeddings.shape[1]))
    return PairCounts(*(np.asarray(counts, np.int64) for counts in found))


@partial(jax.jit, static_argnames="cut")
def _count(embeddings: jax.Array, thresholds: jax.Array, cut: Grid) -> tuple[jax.Array, jax.Array]:
    groups = jax.vmap(lambda table: cut.split(normalize(table)[0]))(embeddings)
    places = jnp.array(cut.places)

    def reached(similarity, i, j):
        entries = jnp.sum(similarity >= thresholds[:, None, None], axis=(1, 2), dtype=jnp.int32)
        return cut.count_pairs(entries, i, j)

    def tile(index, carry):
        clients, union = carry
        i, j = places[index]
        inside = cut.pairs(i, j)

        def one(client, carry):
            clients, most = carry
            similarity = dot(groups[client, i], groups[client, j].T)
            similarity = jnp.where(inside, similarity, -jnp.inf)
            clients = clients.at[client].add(reached(similarity, i, j))
            return clients, jnp.maximum(most, similarity)

        nothing = jnp.full((cut.side, cut.side), -jnp.inf)
        clients, most = jax.lax.fori_loop(0, len(groups), one, (clients, nothing))
        return clients, union + reached(most, i, j)

    zeros = jnp.zeros((len(groups), len(thresholds)), jnp.int32)
    return jax.lax.fori_loop(0, len(places), tile, (zeros, zeros[0]))
