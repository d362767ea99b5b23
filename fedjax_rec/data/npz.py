"""Datasets as ``.npz``: integer arrays, with the split and the clients that come with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedjax_rec.data.arrays import load_arrays
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.titles import with_titles
from fedjax_rec.errors import InputError

__all__ = ["read_npz"]

_REQUIRED = ("user", "item", "split")
_OPTIONAL = ("client", "timestamp", "num_users", "num_items", "num_clients")


def read_npz(path: str | Path, *, first_id: int = 0, titles: str | Path | None = None) -> Dataset:
    """Reads interactions with an explicit split.

    Arrays: ``user``, ``item`` ([n] integers from 0), ``split`` ([n], 0 train, 1 validation,
    2 test); where known ``client`` ([n] integers from 0, one a user) and ``timestamp`` ([n]
    seconds); scalars ``num_users``, ``num_items``, ``num_clients`` where some never occur.
    Nothing pickled is ever loaded.

    Args:
      path: the file.
      first_id: the id of user 0 and of item 0; ids are ``str(first_id + index)``. The ratio
        splits of MovieLens count from 1 as MovieLens does.
      titles: a file of titles and genres (see `fedjax_rec.data.titles.read_titles`).

    Returns:
      The dataset. Users and items keep the file's own numbering, also those that never occur.

    Raises:
      InputError: the file is missing, truncated or pickled; an array is missing, of the wrong
        shape or type, or out of range; a pair is repeated; a user has two clients.
    """
    path = Path(path)
    arrays = load_arrays(path, _REQUIRED, _OPTIONAL, what="an .npz of interactions")
    user, item = (_integers(path, arrays, name) for name in ("user", "item"))
    split = _integers(path, arrays, "split")
    for name in ("item", "split", "client", "timestamp"):
        if name in arrays and arrays[name].shape != user.shape:
            raise InputError(
                f"{path}: {name!r} has shape {arrays[name].shape} where 'user' has {user.shape}; "
                "write one entry an interaction"
            )
    if not len(user):
        raise InputError(f"{path}: no interactions in it; check that it is the file meant")
    num_users = _count(path, arrays, "num_users", user)
    num_items = _count(path, arrays, "num_items", item)
    _in_range(path, "user", user, num_users)
    _in_range(path, "item", item, num_items)
    _in_range(path, "split", split, 3)
    _no_repeats(path, user, item, num_items)
    timestamp = None
    if "timestamp" in arrays:
        timestamp = _finite(path, arrays["timestamp"])
    dataset = Dataset(
        name=path.stem,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=timestamp,
        user_ids=np.arange(first_id, first_id + num_users).astype(str),
        item_ids=np.arange(first_id, first_id + num_items).astype(str),
        split=split.astype(np.int8),
        client=_clients(path, arrays, user, num_users) if "client" in arrays else None,
    )
    return with_titles(dataset, None if titles is None else Path(titles))


def _integers(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    array = arrays[name]
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InputError(
            f"{path}: {name!r} is {array.dtype} of shape {array.shape}; save one-dimensional "
            "integers"
        )
    return array.astype(np.int64)


def _count(path: Path, arrays: dict[str, np.ndarray], name: str, index: np.ndarray) -> int:
    if name not in arrays:
        return int(index.max()) + 1
    if arrays[name].shape != () or arrays[name].dtype.kind not in "iu":
        raise InputError(f"{path}: {name!r} is not one integer; save numpy.int64(n)")
    return int(arrays[name])


def _in_range(path: Path, name: str, array: np.ndarray, end: int) -> None:
    bad = (array < 0) | (array >= end)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{path}: {name}[{row}] is {array[row]}, outside 0 .. {end - 1}; correct it, or the "
            f"count num_{name}s"
            if name != "split"
            else f"{path}: split[{row}] is {array[row]}; use 0 train, 1 validation, 2 test"
        )


def _no_repeats(path: Path, user: np.ndarray, item: np.ndarray, num_items: int) -> None:
    pair = user * num_items + item
    order = np.argsort(pair, kind="stable")
    same = np.diff(pair[order]) == 0
    if same.any():
        at = int(same.argmax())
        raise InputError(
            f"{path}: rows {order[at]} and {order[at + 1]} both hold user {user[order[at]]}, item "
            f"{item[order[at]]}; keep one of them"
        )


def _finite(path: Path, timestamp: np.ndarray) -> np.ndarray:
    if timestamp.dtype.kind not in "iuf":
        raise InputError(f"{path}: 'timestamp' is {timestamp.dtype}; save seconds as numbers")
    timestamp = timestamp.astype(np.float64)
    if not np.isfinite(timestamp).all():
        row = int(np.isfinite(timestamp).argmin())
        raise InputError(f"{path}: timestamp[{row}] is {timestamp[row]}; correct or remove the row")
    return timestamp


def _clients(
    path: Path, arrays: dict[str, np.ndarray], user: np.ndarray, num_users: int
) -> np.ndarray:
    """[num_users] int32; users who never occur join the last client (a split drops them)."""
    client = _integers(path, arrays, "client")
    num_clients = _count(path, arrays, "num_clients", client)
    _in_range(path, "client", client, num_clients)
    of_user = np.full(num_users, num_clients - 1, np.int64)
    of_user[user] = client
    torn = of_user[user] != client
    if torn.any():
        row = int(torn.argmax())
        raise InputError(
            f"{path}: user {user[row]} is with client {client[row]} in row {row} and with client "
            f"{of_user[user[row]]} elsewhere; a user belongs to one client"
        )
    return of_user.astype(np.int32)
