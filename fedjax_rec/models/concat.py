"""AlignFedRec's score function: one linear layer on the user's and the item's vector together."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["Concat"]


class Concat(nn.Module):
    """score(u, i) = a·u + w·E_i + b, a linear layer on [u, E_i], before the sigmoid.

    a·u is the same for all items: it shifts a user's scores, and w alone ranks them.

    Parameters: ``embedding`` [num_users, d], each user's own draw from N(0, ``init_std``²);
    ``kernel`` [num_users, 2d] (a, then w) and ``bias`` [num_users], one draw for all users from
    U(−1/√(2d), 1/√(2d)). A client of several users keeps a layer for each: with one layer for all
    of them it would rank items alike for all.

    Reference:
      AlignFedRec, backbone.
    """

    num_users: int
    init_std: float = 0.01

    @nn.compact
    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores items; arguments as ``LinearHead``. Returns [n] logits."""
        dim = items.shape[-1]
        embedding = self.param(
            "embedding", nn.initializers.normal(self.init_std), (self.num_users, dim)
        )
        kernel = self.param("kernel", self._one_draw, (self.num_users, 2 * dim), 2 * dim)
        bias = self.param("bias", self._one_draw, (self.num_users,), 2 * dim)
        of_user, of_item = kernel[users, :dim], kernel[users, dim:]
        shift = jnp.sum(embedding[users] * of_user, axis=-1) + bias[users]
        if jnp.ndim(users) == 0:
            return items @ of_item + shift
        return jnp.sum(items * of_item, axis=-1) + shift

    @staticmethod
    def _one_draw(key, shape, fan_in):
        bound = fan_in**-0.5
        draw = jax.random.uniform(key, shape[1:], minval=-bound, maxval=bound)
        return jnp.broadcast_to(draw, shape)
