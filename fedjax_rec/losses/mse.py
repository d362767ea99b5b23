"""Mean squared error of the elementwise products that a dot product would add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["elementwise_mse"]


def elementwise_mse(
    products: jax.Array, labels: jax.Array, mask: jax.Array, *, width: jax.Array | int | None = None
) -> jax.Array:
    """Mean over the mask and over the columns of (u_k·v_k − y)².

    Every single product is pulled to the label, not their sum: that is what the release of FedCIA
    minimizes (see "Differs from the paper" of ``fedcia``).

    Args:
      products: [n, d] float, u_k·v_k of each sample.
      labels: [n], 1 for positives and 0 for negatives.
      mask: [n] bool, which samples count.
      width: [] int, columns that count, the first ones; None: all d.

    Returns:
      [] loss; 0 where the mask is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> elementwise_mse(jnp.array([[1.0, 0.0]]), jnp.ones(1), jnp.ones(1, bool))
      Array(0.5, dtype=float32)
    """
    columns = products.shape[1]
    width = columns if width is None else width
    counted = mask[:, None] & (jnp.arange(columns) < width)
    # Masked before the square: a NaN behind the mask would come back through the gradient.
    error = jnp.where(counted, products - labels[:, None], 0)
    return jnp.sum(error**2) / (jnp.maximum(jnp.sum(mask), 1) * width)
