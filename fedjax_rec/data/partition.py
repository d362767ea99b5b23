"""Users grouped into clients: one each (phones), or contiguous blocks (silos)."""

from __future__ import annotations

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["partition"]


def partition(
    num_users: int,
    *,
    clients: int | None = None,
    client_limit: int | None = None,
    own: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Groups users into clients.

    With ``clients``, blocks of ``num_users // clients`` neighbours, of which the last takes the
    rest (943 users over 100 clients: 9 each, 52 the last). Without it, the dataset's own
    grouping, or else one client a user.

    Args:
      num_users: number of users, in the order in which they are to be grouped.
      clients: number of clients.
      client_limit: use only this many clients, the first ones (for sweeps).
      own: [num_users] the client of each user where the dataset fixes one. Clients left without
        users vanish.

    Returns:
      ``order`` [users kept] int64: old user numbers, a client's users side by side; and
      ``client_starts`` [clients kept + 1] int64: client k holds the users
      ``order[client_starts[k]:client_starts[k + 1]]``.

    Raises:
      InputError: more clients than users, a limit above the number of clients, or below 1.

    Example:
      >>> partition(7, clients=3, client_limit=2)[1].tolist()
      [0, 2, 4]
    """
    order = np.arange(num_users, dtype=np.int64)
    if clients is not None:
        _at_least_one("clients", clients)
        if clients > num_users:
            raise InputError(
                f"clients={clients} is more than the {num_users} users; ask for {num_users} or "
                "fewer"
            )
        starts = np.append(np.arange(clients, dtype=np.int64) * (num_users // clients), num_users)
    elif own is not None:
        order = np.argsort(own, kind="stable").astype(np.int64)
        changes = np.flatnonzero(np.diff(own[order])) + 1
        starts = np.concatenate([[0], changes, [num_users]]).astype(np.int64)
    else:
        starts = np.arange(num_users + 1, dtype=np.int64)
    if client_limit is not None:
        _at_least_one("client_limit", client_limit)
        if client_limit > len(starts) - 1:
            raise InputError(
                f"client_limit={client_limit} is more than the {len(starts) - 1} clients; ask for "
                f"{len(starts) - 1} or fewer"
            )
        starts = starts[: client_limit + 1]
    return order[: starts[-1]], starts


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}={value!r} is not a positive integer; give 1 or more")
