"""The uni99 candidates: items that a user never touched, to rank the held-out one against."""

from __future__ import annotations

import numpy as np

from fedjax_rec.data.problem import Ragged

__all__ = ["CANDIDATES", "draw_unseen"]

CANDIDATES = 99


def draw_unseen(
    rng: np.random.Generator, history: Ragged, num_items: int, count: int = CANDIDATES
) -> np.ndarray:
    """Draws distinct items outside of each user's history, uniformly.

    Floyd's method draws distinct places 0 .. N_u - 1 among a user's N_u unseen items, one column
    for all users at a time: the i-th of c draws is uniform over 0 .. N_u - c + i, and where it
    comes back, N_u - c + i itself is taken. The place k then becomes an item by the history
    h_0 < h_1 < …: it is k + #{j : h_j - j <= k}.

    Args:
      rng: the generator.
      history: each user's items, ascending.
      num_items: number of items m.
      count: how many to draw.

    Returns:
      [users, count] int32. A user with fewer unseen items than that gets all of them, and -1 in
      the places left at the end of the row.

    Reference:
      Bentley and Floyd, Programming pearls: a sample of brilliance, CACM 30(9), 1987.
    """
    users = len(history)
    unseen = num_items - history.lengths
    size = np.minimum(count, unseen)
    place = np.full((users, count), -1, np.int64)
    for column in range(count):
        # Users short of items are done early; they stay in the draw, and what falls is not used.
        top = np.maximum(unseen - size + column, 0)
        draw = rng.integers(0, top, endpoint=True)
        again = (place[:, :column] == draw[:, None]).any(axis=1)
        place[:, column] = np.where(column < size, np.where(again, top, draw), -1)

    # h_j - j never falls along a user's list; a stride of m + 1 a user makes it one sorted list.
    owner = np.repeat(np.arange(users, dtype=np.int64), history.lengths)
    rank = np.arange(len(history.values)) - history.starts[owner]
    keys = owner * (num_items + 1) + history.values - rank
    wanted = np.arange(users, dtype=np.int64)[:, None] * (num_items + 1) + place
    before = np.searchsorted(keys, wanted, side="right") - history.starts[:-1, None]
    return np.where(place >= 0, place + before, -1).astype(np.int32)
