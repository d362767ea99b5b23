"""Binary cross-entropy on logits, with a mask for padded samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["binary_cross_entropy"]


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of −y·log σ(x) − (1 − y)·log σ(−x) over the samples that the mask keeps.

    Args:
      logits: [n] float, scores before the sigmoid.
      labels: [n] float, 1 for a positive and 0 for a sampled negative.
      mask: [n] bool or float, false for padding.

    Returns:
      Scalar; 0 (with zero gradient) when the mask keeps nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = binary_cross_entropy(jnp.zeros(4), jnp.ones(4), jnp.ones(4))
      >>> bool(jnp.isclose(loss, jnp.log(2.0)))
      True
    """
    weights = mask.astype(logits.dtype)
    # log(1 + eˣ) − y·x, in the form that overflows for no x. (Not by max and abs, whose kinks at
    # x = 0 would take the gradient of items that start from 0.)
    above = logits > 0
    softplus = jnp.where(above, logits, 0) + jnp.log1p(jnp.exp(jnp.where(above, -logits, logits)))
    each = softplus - logits * labels
    return jnp.sum(weights * each) / jnp.maximum(jnp.sum(weights), 1)
