"""Neural collaborative filtering: a generalized dot product and a network, fused in one layer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["NCF", "USER_SIDE", "user_side_and_network"]

USER_SIDE = ("user_gmf", "user_mlp")
"""Names of a user's embeddings among NCF's parameters."""


class NCF(nn.Module):
    """score(u, i) = h·[p_u ∘ q_i, MLP([s_u, t_i])] + c, before the sigmoid.

    The first part (GMF) is a dot product whose columns have weights; the second (MLP) is a tower
    of ReLU layers on the user's and the item's other embedding, side by side.

    Parameters: ``user_gmf`` and ``user_mlp`` [num_users, d], p and s, each user's own draw from
    N(0, ``init_std``²); the network, which is the same for all users: ``layer_0``, ``layer_1``, …,
    each [out, in + 1], and ``output`` [1, d + last + 1], h. The last column of each is its bias,
    which starts from 0; the others start from U(−√(6/(in + out)), √(6/(in + out))). (A bias that
    is part of its layer's rows is clipped and noised with them when the network travels.)

    Items have 2d columns: q_i, then t_i.

    Attributes:
      num_users: user slots.
      layers: units of each hidden layer, one or more. The tower's input has 2d.
      init_std: standard deviation of the initial user embeddings.

    Reference:
      He et al., "Neural Collaborative Filtering", WWW 2017, section 3.4 (NeuMF).

    Differs from the paper: GMF and MLP embeddings have the same length d.
    """

    num_users: int
    layers: tuple[int, ...] = (32, 16, 8)
    init_std: float = 0.01

    @nn.compact
    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores items.

        Args:
          users: as ``LinearHead``: [] scores all rows for one user, [n] row i for ``users[i]``.
          items: [n, 2d] item embeddings.

        Returns:
          [n] logits.
        """
        dim = items.shape[-1] // 2
        normal = nn.initializers.normal(self.init_std)
        for_gmf, for_mlp = (
            self.param(name, normal, (self.num_users, dim))[users] for name in USER_SIDE
        )
        fused = [for_gmf * items[:, :dim]]

        # [s_u, t_i] is never put together: where all rows are one user's, its half of the first
        # layer is computed once.
        first = self._layer("layer_0", 2 * dim, self.layers[0])
        of_user = for_mlp @ first[:, :dim].T + first[:, -1]
        hidden = nn.relu(items[:, dim:] @ first[:, dim:-1].T + of_user)
        for number, units in enumerate(self.layers[1:], start=1):
            layer = self._layer(f"layer_{number}", hidden.shape[-1], units)
            hidden = nn.relu(hidden @ layer[:, :-1].T + layer[:, -1])
        fused.append(hidden)

        output = self._layer("output", dim + self.layers[-1], 1)[0]
        return jnp.concatenate(fused, axis=-1) @ output[:-1] + output[-1]

    def _layer(self, name, inputs, units):
        return self.param(name, _glorot, units, inputs)


def user_side_and_network(parameters: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters into the embeddings of users and the network that all users share.

    Args:
      parameters: of ``NCF``.

    Returns:
      Both parts; ``{**user_side, **network}`` is the whole again.
    """
    user_side = {name: parameters[name] for name in USER_SIDE}
    return user_side, {k: v for k, v in parameters.items() if k not in user_side}


def _glorot(key, units, inputs):
    bound = (6 / (inputs + units)) ** 0.5
    weights = jax.random.uniform(key, (units, inputs), minval=-bound, maxval=bound)
    return jnp.pad(weights, ((0, 0), (0, 1)))
