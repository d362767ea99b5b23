"""Kullback–Leibler divergence of predicted probabilities from given ones, on logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py, xlogy

from fedjax_rec.losses.bce import binary_cross_entropy

__all__ = ["bernoulli_kl"]


def bernoulli_kl(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of KL(p ‖ σ(x)) = p·log(p/σ(x)) + (1 − p)·log((1 − p)/(1 − σ(x))) over kept samples.

    It is the cross-entropy against p as a soft label less p's own entropy. So its gradient in x
    is σ(x) − p, at any x, and no probability is ever clamped.

    In float32 a mean is good to about 1e-7; below that it may come out as little less than 0.

    Args:
      logits: [n] float, x, scores before the sigmoid.
      targets: [n] float, p, from 0 to 1; constants: no gradient reaches them.
      mask: [n] bool or float, false for padding.

    Returns:
      Scalar; 0 (with zero gradient) when the mask keeps nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> float(bernoulli_kl(jnp.zeros(2), jnp.array([0.5, 0.5]), jnp.ones(2)))
      0.0
    """
    targets = jax.lax.stop_gradient(targets)
    weights = mask.astype(logits.dtype)
    entropy = -xlogy(targets, targets) - xlog1py(1 - targets, -targets)
    mean_entropy = jnp.sum(weights * entropy) / jnp.maximum(jnp.sum(weights), 1)
    return binary_cross_entropy(logits, targets, mask) - mean_entropy
