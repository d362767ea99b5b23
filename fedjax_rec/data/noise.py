"""Clicks that mean nothing, put among what users train on: how robust is a method to them?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedjax_rec.data.options import check_seed
from fedjax_rec.data.problem import Problem, Ragged
from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["inject_clicks"]


def inject_clicks(problem: Problem, fraction: float, *, seed: int = 0) -> Problem:
    """Adds random items to every user's training interactions, as accidental clicks would.

    A user with n training items gets fraction·n more, rounded up or down by chance so that the
    mean is exact. They are drawn uniformly from the items outside of the user's whole history:
    what is held out for validation and test stays held out, and nothing there is noise. Methods
    cannot tell the added items from real ones: they are trained as positives, avoided as
    negatives, counted in |D_k|, and left out of the user's ranking like all training items (the
    uni99 candidates lose them too).

    Every user has a generator of their own, so a user's clicks depend on the user's own items
    only, not on who else there is, nor on how users are grouped. Of two fractions, the smaller
    one's clicks are among the larger one's.

    Args:
      problem: the problem; it is not changed.
      fraction: clicks to add, as a share of each user's training items, from 0 to 1.
      seed: of the clicks, 0 or more.

    Returns:
      The problem with the clicks in ``train`` and a note of how many; with a fraction of 0, the
      problem itself. Its ``dataset`` stays as it was.

    Raises:
      InputError: a fraction out of range, a bad seed, or a user with too few unseen items for the
        clicks and a negative beside them.

    Example:
      >>> from fedjax_rec.data import make_problem, synthetic
      >>> clean = make_problem(synthetic(users=60, items=200))
      >>> noisy = inject_clicks(clean, 0.1)
      >>> len(noisy.train.values) > len(clean.train.values)
      True

    Reference:
      RQFedRec, robustness to noisy interactions (there 5, 10 and 15 %); where the items are drawn
      from is left open there.
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"click noise of {fraction} must be from 0 to 1 (0.1 is 10 %)")
    check_seed(seed)
    if fraction == 0:
        return problem
    clicks = [_draw(problem, user, fraction, seed) for user in range(problem.num_users)]
    candidates = problem.evaluation_negatives
    if candidates is not None:
        candidates = (_without(candidates[0], clicks), _without(candidates[1], clicks))
    train = _merged(problem.train, clicks)
    added = len(train.values) - len(problem.train.values)
    note = (
        f"click noise {fraction:g}: {added:,} random items that users never interacted with added "
        f"to their {len(problem.train.values):,} training interactions (seed {seed})"
    )
    return replace(
        problem,
        train=train,
        evaluation_negatives=candidates,
        notes=(*problem.notes, note),
    )


def _draw(problem: Problem, user: int, fraction: float, seed: int) -> np.ndarray:
    """A user's clicks, in the order of the draw: for a larger fraction, more of the same."""
    unseen = np.ones(problem.num_items, bool)
    for part in (problem.train, problem.validation, problem.test):
        unseen[part[user]] = False
    source = int(problem.user_index[user])
    rng = host_rng(seed, 0, Purpose.CLICKS, source)
    count = int(np.floor(fraction * len(problem.train[user]) + rng.random()))
    left = int(unseen.sum())
    if count >= max(left, 1):
        raise InputError(
            f"{problem.dataset.name}: user {str(problem.dataset.user_ids[source])!r} has {left} "
            f"items without an interaction, too few for {count} random clicks and a negative; use "
            f"less click noise than {fraction:g}, or remove the user"
        )
    return rng.permutation(np.flatnonzero(unseen))[:count].astype(np.int32)


def _merged(train: Ragged, clicks: list[np.ndarray]) -> Ragged:
    lists = [np.sort(np.concatenate([train[u], more])) for u, more in enumerate(clicks)]
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(items) for items in lists], out=starts[1:])
    return Ragged(starts, np.concatenate(lists).astype(np.int32))


def _without(candidates: np.ndarray, clicks: list[np.ndarray]) -> np.ndarray:
    """Candidates ([users, 99], -1 padding at the end) that are no clicks; the order stays."""
    left = candidates.copy()
    for row, more in zip(left, clicks, strict=True):
        row[np.isin(row, more)] = -1
        row[:] = row[np.argsort(row < 0, kind="stable")]
    return left
