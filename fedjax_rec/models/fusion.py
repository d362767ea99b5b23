"""GFMFR's fusion network: a group and an item's content in, the item's embedding in it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["FusionKind", "FusionNetwork"]

FusionKind = Literal["mlp", "gate", "sum", "attention"]


class FusionNetwork(nn.Module):
    """f(group, text, image, …) -> the item embedding of that group.

    Every input becomes ``hidden`` numbers x_0 (the group's own embedding), x_1, x_2, … (a linear
    map of each modality). They are fused, and a last linear layer makes ``width`` numbers of it:

    - sum: Σ x_k. The whole network is linear then.
    - gate: Σ σ(W_k·x_k + b_k) ∘ x_k.
    - mlp: ReLU(W·[x_0, x_1, …] + b), of 2·hidden units.
    - attention: the inputs attend to each other (one head of self-attention), then side by side.

    Attributes:
      groups: g.
      width: columns of an item embedding.
      hidden: see above.
      kind: see above.

    Differs from the release: its gates stand for the inputs themselves instead of scaling them, and
    its attention runs over the items that happen to share a batch.
    """

    groups: int
    width: int
    hidden: int = 64
    kind: FusionKind = "mlp"

    @nn.compact
    def __call__(self, content: Sequence[jax.Array]) -> jax.Array:
        """Embeds items as every group has them.

        Args:
          content: the modalities, each [n, w_k], at least one.

        Returns:
          [groups, n, width].
        """
        normal = nn.initializers.normal(1.0)
        group = self.param("group", normal, (self.groups, self.hidden))[:, None]
        parts = [group]  # [groups, 1, hidden], then [1, n, hidden]: no item is projected twice
        for number, vectors in enumerate(content):
            parts.append(nn.Dense(self.hidden, name=f"modality_{number}")(vectors)[None])
        fused = getattr(self, f"_{self.kind}")(parts)
        return nn.Dense(self.width, name="output")(fused)

    def _sum(self, parts):
        return sum(parts)

    def _gate(self, parts):
        gates = [nn.Dense(self.hidden, name=f"gate_{k}")(x) for k, x in enumerate(parts)]
        return sum(nn.sigmoid(gate) * x for gate, x in zip(gates, parts, strict=True))

    def _mlp(self, parts):
        # W·[x_0, x_1, …] by parts: those of the items are the same for all groups.
        layers = [
            nn.Dense(2 * self.hidden, use_bias=not k, name=f"mlp_{k}")(x)
            for k, x in enumerate(parts)
        ]
        return nn.relu(sum(layers))

    def _attention(self, parts):
        shape = jnp.broadcast_shapes(*(x.shape for x in parts))
        tokens = jnp.stack([jnp.broadcast_to(x, shape) for x in parts], axis=-2)
        mixed = nn.MultiHeadDotProductAttention(num_heads=1, name="attention")(tokens)
        return mixed.reshape(*shape[:-1], -1)
