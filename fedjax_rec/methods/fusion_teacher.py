"""How a group's preference pulls at a client's predictions: GFMFR's KL term and its weight."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.batches import Batch, Samples
from fedjax_rec.losses import bernoulli_kl, binary_cross_entropy

__all__ = ["Schedule", "Teacher", "loss_ratio", "moving_average", "schedule"]

Schedule = Literal["cosine", "linear", "exponential", "constant"]

_RISE = 10  # rounds of the exponential schedule


class Teacher(NamedTuple):
    """What a client's training is drawn to, beside its own labels.

    Attributes:
      preference: [n] float32, p, a probability for each row of the table that is trained.
      weight: [] float32, η; 0: nothing pulls.
    """

    preference: jax.Array
    weight: jax.Array

    def of(self, items: jax.Array) -> Teacher:
        """For a table of the items [T] only; numbers beyond the last item are padding."""
        return self._replace(preference=jnp.take(self.preference, items, axis=0, mode="clip"))

    def pull(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """To be added to a batch's loss: η·KL(p ‖ σ(logits)) over its samples, as a gradient.

        Its value is 0, so that the loss which a method reports stays that of its labels.
        """
        divergence = bernoulli_kl(logits, self.preference[batch.items], batch.mask)
        term = self.weight * divergence
        return term - jax.lax.stop_gradient(term)


def schedule(kind: Schedule, passed: jax.Array, rounds: int) -> jax.Array:
    """How much of the KL term counts in a round.

    Args:
      kind: "cosine": cos(π·t/2T), falling to 0. "linear": t/T. "exponential": 1 − exp(−t/10).
        "constant": 1.
      passed: [] int, t, rounds before this one.
      rounds: T; rounds after it count as the last.

    Returns:
      [] float32, from 0 to 1.
    """
    t = jnp.asarray(passed, jnp.float32)
    share = jnp.minimum(t / rounds, 1)
    if kind == "cosine":
        return jnp.maximum(jnp.cos(jnp.pi / 2 * share), 0)
    if kind == "linear":
        return share
    if kind == "exponential":
        return 1 - jnp.exp(-t / _RISE)
    return jnp.ones_like(t)


def loss_ratio(
    logits: jax.Array, preference: jax.Array, samples: Samples, step: int, limit: float
) -> jax.Array:
    """BCE / KL over a round's samples: what makes the two losses of one size.

    Between predictions that agree the KL is of second order, and its gradient of first. So the
    ratio times the gradient grows without a bound as they come to agree, and has to have one.

    Args:
      logits: [N], of the samples.
      preference: [m] float32, p.
      samples: of the round, with items of 0 … m − 1.
      step: every so many samples there is a positive (1 + negatives).
      limit: what the ratio is at most.

    Returns:
      [] float32, from 0 to the limit.
    """
    labels = (jnp.arange(len(logits)) % step == 0).astype(jnp.float32)
    entropy = binary_cross_entropy(logits, labels, samples.valid)
    divergence = bernoulli_kl(logits, preference[samples.items], samples.valid)
    tiny = jnp.finfo(jnp.float32).tiny  # where both are 0, so is the ratio
    return entropy / jnp.maximum(jnp.maximum(divergence, entropy / limit), tiny)


def moving_average(old: jax.Array, new: jax.Array, decay: float) -> jax.Array:
    """decay·old + (1 − decay)·new; ``new`` itself where there is no old one (0)."""
    return jnp.where(old > 0, decay * old + (1 - decay) * new, new)
