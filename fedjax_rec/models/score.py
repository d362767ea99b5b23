"""Apply a score function to a user side and item rows."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

__all__ = ["score"]


def score(model: nn.Module, user: Any, slots: jax.Array, items: jax.Array) -> jax.Array:
    """Scores items with a model and its user-side parameters.

    Args:
      model: a score function, such as ``LinearHead(num_users)``.
      user: its parameters, with a leading axis of users.
      slots: [] or [n] int, whose score; see the model.
      items: [n, d] item embeddings.

    Returns:
      [n] logits.
    """
    logits: Any = model.apply({"params": user}, slots, items)
    return logits
