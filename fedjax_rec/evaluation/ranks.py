"""Ranks of held-out items on the device, among sampled candidates and among all items at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["TOP_K", "HeldOut", "Ranks", "rank_user"]

#: Length of the recommended list that metrics judge.
TOP_K = 10


class HeldOut(NamedTuple):
    """What one client is evaluated on. U user slots; item lists padded with -1.

    Attributes:
      users: [] int32, how many of the U slots are users.
      seen: [U, L] int32 training items.
      validation: [U, V] int32 held-out validation items.
      test: [U, T] int32 held-out test items.
      candidates: [U, 2, 99] int32, the uni99 negatives for validation and for test; None where
        the protocol has none (ratio split).
    """

    users: Any
    seen: Any
    validation: Any
    test: Any
    candidates: Any


class Ranks(NamedTuple):
    """Zero-based ranks of one user's held-out items, or its list of best items; -1 for padding.

    Attributes:
      validation_sampled, test_sampled: [V] and [T] int32 ranks among the candidates; None without
        candidates.
      validation_full, test_full: [V] and [T] int32 ranks among all items, training items masked,
        and for test the validation items too.
      validation_top, test_top: [10] int32 best items of the same rankings, the best first; None
        with candidates (only the ratio split's published metrics look at them).
    """

    validation_sampled: Any
    validation_full: Any
    test_sampled: Any
    test_full: Any
    validation_top: Any
    test_top: Any


def rank_user(scores: jax.Array, held_out: HeldOut) -> Ranks:
    """Ranks one user's held-out items.

    A rank is the number of other candidates that do not score lower: ties count against the
    held-out item, and so do scores that are not numbers, so a model that scores everything alike,
    or has diverged, gets no credit. Other held-out items of the same split stay in the full
    ranking.

    Args:
      scores: [m] float, the user's score of every item.
      held_out: one user's row, without the slot axis: ``seen`` [L], ``validation`` [V], and so on.
    """
    unseen = _drop(scores, held_out.seen)
    at_test = _drop(unseen, held_out.validation)
    validation_sampled = test_sampled = validation_top = test_top = None
    if held_out.candidates is not None:
        validation_sampled = _rank_sampled(scores, held_out.validation, held_out.candidates[0])
        test_sampled = _rank_sampled(scores, held_out.test, held_out.candidates[1])
    else:
        validation_top, test_top = _top(unseen), _top(at_test)
    return Ranks(
        validation_sampled=validation_sampled,
        validation_full=_rank_full(unseen, held_out.validation),
        test_sampled=test_sampled,
        test_full=_rank_full(at_test, held_out.test),
        validation_top=validation_top,
        test_top=test_top,
    )


def _drop(scores, items):
    """Scores with the given items out of the ranking; -1 is no item."""
    beyond = jnp.where(items < 0, scores.shape[0], items)
    return scores.at[beyond].set(-jnp.inf, mode="drop")


def _top(scores):
    """The best items, -1 where there are fewer. Of equal scores the lower index comes first."""
    values, items = jax.lax.top_k(scores, min(TOP_K, scores.shape[0]))
    # A score that is no number takes a place on top, as it does in ranks, but is no item.
    items = jnp.where(values > -jnp.inf, items, -1)
    return jnp.pad(items, (0, TOP_K - items.shape[0]), constant_values=-1)


def _rank_full(scores, items):
    mine = scores[jnp.maximum(items, 0)]
    above = jnp.sum(~(scores[None, :] < mine[:, None]), axis=1) - 1
    return jnp.where(items < 0, -1, above)


def _rank_sampled(scores, items, candidates):
    others = jnp.where(candidates < 0, -jnp.inf, scores[jnp.maximum(candidates, 0)])
    mine = scores[jnp.maximum(items, 0)]
    above = jnp.sum(~(others[None, :] < mine[:, None]), axis=1)
    return jnp.where(items < 0, -1, above)
