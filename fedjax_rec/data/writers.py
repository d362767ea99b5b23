"""A dataset onto disk as RecBole atomic files, which `read_recbole` reads back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.errors import InputError

__all__ = ["write_recbole"]


def write_recbole(dataset: Dataset, path: str | Path) -> tuple[Path, ...]:
    """Writes ``path`` (``.inter``) and, given titles or genres, the ``.item`` file beside it.

    Rows keep their order. Items that never occur, the split and the clients are not kept: the
    format has no place for them; the planted clusters are, as a column ``cluster:token``. Genres
    stand between blanks, so a blank within a genre's name becomes a hyphen ("Film-Noir").

    Args:
      dataset: any dataset whose ids hold no tab, line end or leading blank.
      path: the file to make; its suffix must be ``.inter``. A file there is replaced, at once
        and only when all is written.

    Returns:
      The files written.

    Raises:
      InputError: another suffix, an id that the format cannot hold, a disk that is full or may
        not be written.
    """
    path = Path(path)
    if path.suffix != ".inter":
        raise InputError(f"{path}: RecBole interactions are named .inter; use that suffix")
    for ids in (dataset.user_ids, dataset.item_ids):
        for text in ids.tolist():
            if not text or text[0] in " \ufeff" or any(mark in text for mark in "\t\r\n\0"):
                raise InputError(
                    f"{dataset.name}: the id {text!r} cannot stand between tabs; rename it"
                )
    _atomically(path, lambda file: _interactions(dataset, file))
    if dataset.item_titles is None and dataset.item_genres is None:
        return (path,)
    items = path.with_suffix(".item")
    _atomically(items, lambda file: _items(dataset, file))
    return path, items


def _interactions(dataset: Dataset, file: TextIO) -> None:
    timed = dataset.timestamp is not None
    file.write("user_id:token\titem_id:token" + ("\ttimestamp:float" if timed else "") + "\n")
    columns = [dataset.user_ids[dataset.user].tolist(), dataset.item_ids[dataset.item].tolist()]
    if dataset.timestamp is not None:
        columns.append([np.format_float_positional(t, trim="-") for t in dataset.timestamp])
    file.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def _items(dataset: Dataset, file: TextIO) -> None:
    titles = [""] * dataset.num_items
    if dataset.item_titles is not None:
        # A title may hold anything; a blank stands for what the format cannot hold.
        titles = [" ".join(title.split()) for title in dataset.item_titles.tolist()]
    header, columns = "item_id:token\ttitle:token_seq", [dataset.item_ids.tolist(), titles]
    if dataset.item_genres is not None:
        header += "\tgenre:token_seq"
        columns.append([_token_seq(genres) for genres in dataset.item_genres.tolist()])
    if dataset.item_cluster is not None:
        header += "\tcluster:token"
        columns.append(dataset.item_cluster.astype(str).tolist())
    file.write(header + "\n")
    file.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def _token_seq(genres: str) -> str:
    return " ".join("-".join(genre.split()) for genre in genres.split("|"))


def _atomically(path: Path, write: Callable[[TextIO], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", newline="\n") as file:
                write(file)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
