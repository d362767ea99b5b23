"""Projection onto the simplex: the nearest weights that are no less than 0 and sum to 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["project_to_simplex"]


def project_to_simplex(values: jax.Array, allowed: jax.Array) -> jax.Array:
    """argmin_w ‖w − v‖² with w ≥ 0, Σ w = 1 and w_j = 0 where j is not allowed; for many v at once.

    The exact solution is w_j = max(v_j − θ, 0). In descending order v_(1) ≥ v_(2) ≥ …, the largest
    r with r·v_(r) > Σ_{i≤r} v_(i) − 1 is the number of positive weights, and θ = (Σ_{i≤r} v_(i) −
    1)/r. One sort a row, no iteration.

    Args:
      values: [..., n] float32, finite where allowed.
      allowed: [n] bool.

    Returns:
      [..., n] float32; zeros where nothing is allowed.

    Example:
      >>> import jax.numpy as jnp
      >>> v = jnp.array([0.5, 1.0, -3.0, 9.0])
      >>> project_to_simplex(v, jnp.array([True, True, True, False])).tolist()
      [0.25, 0.75, 0.0, 0.0]

    Reference:
      Held, Wolfe, Crowder, "Validation of subgradient optimization", Mathematical Programming 6,
      1974; Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions",
      ICML 2008, figure 1.
    """
    largest = jnp.max(jnp.where(allowed, values, -jnp.inf), axis=-1, keepdims=True)
    # Relative to the largest, a value of −1 and less has no weight, and sums stay exact.
    shifted = jnp.where(allowed, values - largest, -2.0)
    shifted = jnp.maximum(shifted, -2.0)
    descending = -jnp.sort(-shifted, axis=-1)
    excess = jnp.cumsum(descending, axis=-1) - 1
    place = jnp.arange(1, values.shape[-1] + 1)
    positive = jnp.maximum(jnp.sum(place * descending > excess, axis=-1, keepdims=True), 1)
    threshold = jnp.take_along_axis(excess, positive - 1, axis=-1) / positive
    return jnp.where(allowed, jnp.maximum(shifted - threshold, 0), 0)
