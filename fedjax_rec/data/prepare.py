"""From a dataset to a problem: split, clients, candidates, and the checks that save a run."""

from __future__ import annotations

from typing import get_args

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.negatives import CANDIDATES, draw_unseen
from fedjax_rec.data.options import check_choice, check_seed
from fedjax_rec.data.partition import partition
from fedjax_rec.data.problem import Problem, Protocol, Ragged, SplitName
from fedjax_rec.data.splits import DROPPED, TEST, TRAIN, VALIDATION, leave_one_out, ratio
from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["PUBLISHED_NOTE", "forbidden_items", "make_problem"]

PUBLISHED_NOTE = (
    "protocol published: training negatives avoid the held-out items too, so these are the only "
    "unseen items that are never trained as negatives, and the figures are inflated (on ML-100K "
    "training without any federation reaches HR@10 = 95 %, where chance is 10 %)"
)


def make_problem(
    dataset: Dataset,
    *,
    split: SplitName = "loo",
    protocol: Protocol = "leak-free",
    clients: int | None = None,
    client_limit: int | None = None,
    seed: int = 0,
) -> Problem:
    """Splits a dataset, groups its users into clients and draws the evaluation candidates.

    Split and candidates are drawn for all users before ``client_limit`` cuts, and before users
    are grouped: a user's data and candidates depend on neither.

    Args:
      dataset: the interactions.
      split: "loo" (needs timestamps) or "ratio" (the dataset's own where it has one).
      protocol: which items training negatives avoid, see `Problem`.
      clients: number of clients; None: the dataset's own grouping, or one a user.
      client_limit: use the first N clients only; all items stay.
      seed: of the ratio split and of the candidates, 0 or more.

    Returns:
      The problem. Its notes are the dataset's, then those of the split, of the grouping and of
      the candidates, then, under "published", why figures are inflated.

    Raises:
      InputError: an unknown split or protocol, numbers of clients that cannot be, no timestamps
        under "loo", or a user for whom no negative is left.

    Example:
      >>> from fedjax_rec.data import synthetic
      >>> make_problem(synthetic(users=60, items=200), clients=20)
      Problem('synthetic', loo, leak-free: 20 clients, 60 users, 200 items)
    """
    check_choice("split", split, get_args(SplitName))
    check_choice("protocol", protocol, get_args(Protocol))
    check_seed(seed)
    marks, split_notes = leave_one_out(dataset) if split == "loo" else ratio(dataset, seed)
    notes = [*dataset.notes, *split_notes]
    kept = np.unique(dataset.user[marks != DROPPED]).astype(np.int64)
    own = None if dataset.client is None else dataset.client[kept]
    order, starts = partition(len(kept), clients=clients, client_limit=client_limit, own=own)
    if own is not None and clients is None and dataset.client is not None:
        vanished = len(np.unique(dataset.client)) - len(np.unique(own))
        if vanished:
            notes.append(f"{vanished:,} clients without any user left dropped")

    train = _lists(dataset, marks == TRAIN, kept)
    history = _lists(dataset, marks != DROPPED, kept)
    avoided = train if protocol == "leak-free" else history
    _require_negatives(dataset, kept, avoided, f"protocol={protocol}")
    candidates = None
    if split == "loo":
        _require_negatives(dataset, kept, history, "ranking the held-out items")
        short = history.lengths[order] > dataset.num_items - CANDIDATES
        if short.any():
            notes.append(
                f"{int(short.sum()):,} users have fewer than {CANDIDATES} unseen items; their "
                "held-out item is ranked against what there is"
            )
        drawn = [
            draw_unseen(host_rng(seed, 0, purpose), history, dataset.num_items)[order]
            for purpose in (Purpose.VALIDATION_CANDIDATES, Purpose.TEST_CANDIDATES)
        ]
        candidates = (drawn[0], drawn[1])
    if protocol == "published":
        notes.append(PUBLISHED_NOTE)

    users = kept[order]
    return Problem(
        dataset=dataset,
        split=split,
        protocol=protocol,
        user_index=users,
        client_starts=starts,
        train=_lists(dataset, marks == TRAIN, users),
        validation=_lists(dataset, marks == VALIDATION, users),
        test=_lists(dataset, marks == TEST, users),
        evaluation_negatives=candidates,
        notes=tuple(notes),
    )


def forbidden_items(problem: Problem) -> Ragged:
    """The items that each user's training negatives must avoid.

    Args:
      problem: the problem.

    Returns:
      Per user, ascending: the training items under "leak-free"; training, validation and test
      items under "published".
    """
    if problem.protocol == "leak-free":
        return problem.train
    parts = (problem.train, problem.validation, problem.test)
    users = np.arange(problem.num_users)
    owner = np.concatenate([np.repeat(users, part.lengths) for part in parts])
    return _ragged(owner, np.concatenate([part.values for part in parts]), problem.num_users)


def _lists(dataset: Dataset, rows: np.ndarray, users: np.ndarray) -> Ragged:
    """The items of the given rows ([n] bool), user by user in the order of ``users``."""
    number = np.full(dataset.num_users, -1, np.int64)
    number[users] = np.arange(len(users))
    owner = number[dataset.user[rows]]
    return _ragged(owner[owner >= 0], dataset.item[rows][owner >= 0], len(users))


def _ragged(owner: np.ndarray, values: np.ndarray, users: int) -> Ragged:
    starts = np.zeros(users + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=users), out=starts[1:])
    return Ragged(starts, values[np.lexsort((values, owner))].astype(np.int32))


def _require_negatives(dataset: Dataset, users: np.ndarray, avoided: Ragged, purpose: str) -> None:
    full = avoided.lengths >= dataset.num_items
    if full.any():
        user = str(dataset.user_ids[users[full.argmax()]])
        raise InputError(
            f"{dataset.name}: user {user!r} has touched every one of the {dataset.num_items} "
            f"items, so no negative is left for {purpose}; remove the user or add items"
        )
