"""A graph of clients: who listens to whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["neighbour_weights"]


def neighbour_weights(
    similarities: jax.Array,
    present: jax.Array,
    *,
    threshold: float = 1.0,
    count: int | None = None,
) -> jax.Array:
    """Each client's equal weights of its neighbours in a graph of similarities.

    Neighbours of k are the clients j with s_kj > threshold · mean(s), the mean over all pairs that
    are present, a client with itself among them; or, with ``count``, those with the largest s_kj,
    all of them where several are as large as the last. A client is its own neighbour where its
    similarity to itself passes, and where nobody's does.

    Args:
      similarities: [R, R] float32.
      present: [R] bool.
      threshold: γ, used where there is no ``count``.
      count: neighbours of a client, 1 or more.

    Returns:
      [R, R] float32: rows of those present sum to 1, others are 0.

    Example:
      >>> import jax.numpy as jnp
      >>> s = jnp.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
      >>> neighbour_weights(s, jnp.ones(3, bool)).tolist()
      [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    pairs = present[:, None] & present[None, :]
    if count is None:
        # The mean of row means: in float32, a sum of millions of terms would lose the last ones.
        clients = jnp.maximum(jnp.sum(present), 1)
        of_row = jnp.sum(jnp.where(pairs, similarities, 0), axis=1) / clients
        linked = pairs & (similarities > threshold * jnp.sum(of_row) / clients)
    else:
        among = jnp.where(pairs, similarities, -jnp.inf)
        last = jax.lax.top_k(among, min(count, len(present)))[0][:, -1:]
        linked = pairs & (among >= last)
    alone = ~jnp.any(linked, axis=1, keepdims=True)
    linked = linked | (alone & pairs & jnp.eye(len(present), dtype=bool))
    return linked / jnp.maximum(jnp.sum(linked, axis=1, keepdims=True), 1).astype(jnp.float32)
