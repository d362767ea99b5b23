"""PFedRec's score function: a linear head on the item embedding, private to the user."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["LinearHead", "head_rows", "score_by_row"]


class LinearHead(nn.Module):
    """score(u, i) = w_u·E_i + b_u, before the sigmoid.

    Parameters: ``kernel`` [num_users, d], ``bias`` [num_users]. All users start from one draw,
    U(−1/√d, 1/√d), as the release's copies of one linear layer do. A client of several users
    keeps a head for each, so that grouping users into silos does not change the model.

    Reference:
      Zhang et al., "Dual Personalization on Federated Recommendation" (PFedRec), IJCAI 2023.
    """

    num_users: int

    @nn.compact
    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores items.

        Args:
          users: [] or [n] int, whose head. A scalar scores all rows with one head, as one
            matrix-vector product; with [n], row i is scored by head ``users[i]``.
          items: [n, d] item embeddings.

        Returns:
          [n] logits.
        """
        kernel = self.param("kernel", self._one_draw, (self.num_users, items.shape[-1]))
        bias = self.param("bias", self._one_draw, (self.num_users,), items.shape[-1])
        if jnp.ndim(users) == 0:
            return items @ kernel[users] + bias[users]
        return jnp.sum(items * kernel[users], axis=-1) + bias[users]

    @staticmethod
    def _one_draw(key, shape, fan_in=None):
        bound = (fan_in or shape[-1]) ** -0.5
        draw = jax.random.uniform(key, shape[1:], minval=-bound, maxval=bound)
        return jnp.broadcast_to(draw, shape)


def head_rows(parameters: Any) -> jax.Array:
    """A ``LinearHead``'s parameters as they travel: [num_users, d + 1], the bias last."""
    return jnp.concatenate([parameters["kernel"], parameters["bias"][:, None]], axis=1)


def score_by_row(row: jax.Array, items: jax.Array) -> jax.Array:
    """[n] logits of [n, d] items by one of the ``head_rows``."""
    return items @ row[:-1] + row[-1]
