"""Local training of neural collaborative filtering: what FedNCF and its central form share."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from fedjax_rec.methods.local_training import LocalTraining, check_layers
from fedjax_rec.models import NCF

__all__ = ["NCFTraining"]


@dataclass(frozen=True)
class NCFTraining(LocalTraining):
    """Options of NCF's local training, beside those of all methods.

    ``dim`` is the length of each of the four embeddings: users' and items', for GMF and for MLP.
    ``lr`` is the rate of the network too.

    Attributes:
      layers: units of the tower's hidden layers. Before them come 2·dim inputs.
    """

    layers: tuple[int, ...] = (32, 16, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self.layers)

    def model(self, num_users: int) -> NCF:
        """The score function of a client with that many user slots."""
        return NCF(num_users, self.layers, self.init_std)

    def initial_items(self, key: jax.Array, num_items: int) -> jax.Array:
        """[m, 2d] float32 from N(0, init_std²): items for GMF, then for MLP."""
        return self.init_std * jax.random.normal(key, (num_items, 2 * self.dim))
