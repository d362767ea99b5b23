"""Matrix factorization: the dot product of a user's and an item's embedding."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["MF"]


class MF(nn.Module):
    """score(u, i) = u·v_i, before the sigmoid.

    Parameter: ``embedding`` [num_users, d], each user's own draw from N(0, ``init_std``²).

    Reference:
      Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized
      Recommendation System", 2019; Chai et al., "Secure Federated Matrix Factorization" (FedMF).
    """

    num_users: int
    init_std: float = 0.01

    @nn.compact
    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores items; arguments as ``LinearHead``. Returns [n] logits."""
        embedding = self.param(
            "embedding",
            nn.initializers.normal(self.init_std),
            (self.num_users, items.shape[-1]),
        )
        if jnp.ndim(users) == 0:
            return items @ embedding[users]
        return jnp.sum(items * embedding[users], axis=-1)
