"""Columns of a file into a `Dataset`: duplicates, binarized ratings, dense indices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.options import check_choice
from fedjax_rec.data.table import Columns
from fedjax_rec.errors import InputError

__all__ = ["Duplicates", "assemble"]

Duplicates = Literal["error", "first", "last"]


def assemble(path: Path, columns: Columns, *, duplicates: Duplicates = "error") -> Dataset:
    """Makes a dataset of what a text reader found.

    A (user, item) pair that occurs twice is settled first, over all rows; then rows with a
    rating of 0 or less are dropped, since only a positive rating is a positive; then ids are
    numbered in order of first appearance among the rows that are left.

    Args:
      path: the file they came from, for messages; its stem is the dataset's name.
      columns: the columns.
      duplicates: what to do with a repeated (user, item) pair: refuse it, or keep the row that
        stands first or last in the file.

    Returns:
      The dataset, without titles and genres.

    Raises:
      InputError: a repeated pair under ``duplicates="error"``; no positive rating at all.
    """
    check_choice("duplicates", duplicates, get_args(Duplicates))
    notes: list[str] = []
    rows = np.arange(len(columns.user))

    pair = columns.user * np.int64(len(columns.item_ids)) + columns.item
    repeated = pd.Series(pair).duplicated(keep="last" if duplicates == "last" else "first")
    if repeated.any():
        if duplicates == "error":
            raise InputError(_duplicate(path, columns, pair, repeated.to_numpy()))
        rows = rows[~repeated.to_numpy()]
        notes.append(
            f"{path.name}: {int(repeated.sum()):,} repeated (user, item) rows dropped, "
            f"the {duplicates} of each pair kept"
        )
    if columns.rating is not None:
        positive = columns.rating[rows] > 0
        if not positive.all():
            notes.append(
                f"{path.name}: {int((~positive).sum()):,} rows with a rating of 0 or less dropped "
                "(only ratings above 0 are positives)"
            )
            rows = rows[positive]
    if not len(rows):
        raise InputError(f"{path}: no rating above 0 in it; check which column is the rating")

    user, seen_users = pd.factorize(columns.user[rows])
    item, seen_items = pd.factorize(columns.item[rows])
    return Dataset(
        name=path.stem,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=None if columns.timestamp is None else columns.timestamp[rows],
        user_ids=columns.user_ids[seen_users],
        item_ids=columns.item_ids[seen_items],
        notes=tuple(notes),
    )


def _duplicate(path: Path, columns: Columns, pair: np.ndarray, repeated: np.ndarray) -> str:
    second = int(repeated.argmax())
    first = int((pair == pair[second]).argmax())
    return (
        f"{path}:{columns.line[second]}: user {str(columns.user_ids[columns.user[second]])!r} and "
        f"item {str(columns.item_ids[columns.item[second]])!r} already stand on line "
        f"{columns.line[first]}; remove one, or pass duplicates=first or duplicates=last"
    )
