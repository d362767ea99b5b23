"""GPFedRec's score function: a small network on the user's and the item's embedding."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["MLP"]


class MLP(nn.Module):
    """score(u, i) = h·ReLU(… W_0·[p_u, E_i] + b_0 …) + c, before the sigmoid.

    Parameters: ``embedding`` [num_users, d], p, from N(0, ``init_std``²); ``layer_0``,
    ``layer_1``, …, ``output``, each a ``kernel`` [in, out] and a ``bias`` [out] from
    U(−1/√in, 1/√in).

    Attributes:
      num_users: user slots. They share the network.
      layers: units of each hidden layer, one or more. The network's input has 2d.
      init_std: standard deviation of the initial user embeddings.

    Reference:
      Zhang et al., "GPFedRec", KDD 2024; layers and initial values as in its release.
    """

    num_users: int
    layers: tuple[int, ...] = (32, 16, 8)
    init_std: float = 1.0

    @nn.compact
    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores items; arguments as ``LinearHead``. Returns [n] logits."""
        rows, dim = items.shape
        normal = nn.initializers.normal(self.init_std)
        embedding = self.param("embedding", normal, (self.num_users, dim))[users]
        hidden = jnp.concatenate([jnp.broadcast_to(embedding, (rows, dim)), items], axis=1)
        for number, units in enumerate(self.layers):
            hidden = nn.relu(_dense(units, hidden.shape[1], f"layer_{number}")(hidden))
        return _dense(1, self.layers[-1], "output")(hidden)[:, 0]


def _dense(units, inputs, name):
    bound = inputs**-0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(units, kernel_init=uniform, bias_init=uniform, name=name)
