"""Whom a method serves: heavy and light users, popular and rare items.

An average over users hides both. Users are grouped by how many items they train on, held-out items
by how many users train on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Groups", "activity_groups", "popularity_groups"]


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition.

    Attributes:
      of: [n] int, the group of each user or item, from 0; every group has a member.
      titles: of the groups, in words.
    """

    of: np.ndarray
    titles: tuple[str, ...]


def activity_groups(train_items: np.ndarray, parts: int = 4) -> Groups:
    """Users by their number of training items, cut at its quantiles, the lightest first.

    Users with equal numbers are never told apart: with many of them a group is larger than its
    share, and its neighbour smaller, or not there.

    Args:
      train_items: [users] int, items that each user trains on.
      parts: groups wanted.

    Example:
      >>> activity_groups(np.array([3, 5, 9, 5]), parts=2).titles
      ('3–5', '9')
    """
    shares = np.arange(1, parts) / parts
    bounds = np.quantile(train_items, shares, method="inverted_cdf")
    cut = np.searchsorted(bounds, train_items, side="left")
    present, of = np.unique(cut, return_inverse=True)
    titles = []
    for group in range(len(present)):
        counts = train_items[of == group]
        low, high = counts.min(), counts.max()
        titles.append(f"{low:,}" if low == high else f"{low:,}–{high:,}")
    return Groups(of, tuple(titles))


def popularity_groups(item_users: np.ndarray, head: float = 0.2) -> Groups:
    """Items cut into a head, the share of them that most users train on, and the tail.

    Args:
      item_users: [m] int, users who train on each item; of equal ones the first comes first.
      head: the head's share of the items; rounded up to whole items, but never all of them.

    Returns:
      Group 0 is the head, 1 the tail. Titles say which share of the training interactions is
      theirs.

    Example:
      >>> popularity_groups(np.array([1, 6, 1, 1, 1])).titles
      ('head: top 20 % of items (60 % of interactions)', 'tail: other items (40 % of interactions)')
    """
    order = np.argsort(-item_users.astype(np.int64), kind="stable")
    size = min(int(np.ceil(head * len(item_users))), max(1, len(item_users) - 1))
    of = np.ones(len(item_users), np.int64)
    of[order[:size]] = 0
    total = max(1, int(item_users.sum()))
    share = 100 * int(item_users[of == 0].sum()) / total
    titles = (
        f"head: top {100 * head:.0f} % of items ({share:.0f} % of interactions)",
        f"tail: other items ({100 - share:.0f} % of interactions)",
    )
    return Groups(of, titles)
