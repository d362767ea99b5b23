"""Item titles from the file that a dataset keeps beside its interactions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.errors import InputError

__all__ = ["find_titles", "read_titles", "with_titles"]


def with_titles(dataset: Dataset, path: Path | None) -> Dataset:
    """Adds the titles of a title file to a dataset.

    Args:
      dataset: any dataset.
      path: the title file, or None to leave the dataset as it is.

    Returns:
      A copy with ``item_titles`` ([num_items] str, "" for items that the file lacks).

    Raises:
      InputError: the file cannot be used (see `read_titles`).
    """
    if path is None:
        return dataset
    titles = read_titles(path)
    found = np.array([titles.get(str(item), "") for item in dataset.item_ids], dtype=str)
    return replace(dataset, item_titles=found)


def find_titles(interactions: Path) -> Path | None:
    """The title file beside a file of interactions, by the names that the sources use.

    ``u.data`` has ``u.item``, ``ratings.dat`` has ``movies.dat``, ``ratings.csv`` has
    ``movies.csv``, ``user_artists.dat`` has ``artists.dat`` and ``x.inter`` has ``x.item``;
    failing that, a folder's only RecBole ``.item`` file serves the first and the last of these.
    """
    usual = {
        "u.data": "u.item",
        "ratings.dat": "movies.dat",
        "ratings.csv": "movies.csv",
        "user_artists.dat": "artists.dat",
    }.get(interactions.name)
    if usual is None and interactions.suffix == ".inter":
        usual = f"{interactions.stem}.item"
    if usual is not None and (interactions.parent / usual).is_file():
        return interactions.parent / usual
    if interactions.name == "u.data" or interactions.suffix == ".inter":
        others = sorted(p for p in interactions.parent.glob("*.item") if p.name != "u.item")
        if len(others) == 1:
            return others[0]
    return None


def read_titles(path: Path) -> dict[str, str]:
    """Reads the titles of items.

    Args:
      path: MovieLens ``u.item`` or ``movies.dat`` (Latin-1), ``movies.csv``, HetRec
        ``artists.dat``, or a RecBole ``.item`` file.

    Returns:
      The title of each item id. A RecBole ``release_year`` is appended in brackets, as MovieLens
      itself writes it: ``"Toy Story (1995)"``.

    Raises:
      InputError: a line with too few fields, or a ``.item`` header without id or title.
    """
    if path.name == "u.item":
        return _columns(path, "latin-1", lambda line: line.split("|"), skip=0)
    if path.name == "movies.dat":
        return _columns(path, "latin-1", lambda line: line.split("::"), skip=0)
    if path.name == "movies.csv":
        return _columns(path, "utf-8-sig", lambda line: next(csv.reader([line])), skip=1)
    if path.name == "artists.dat":
        return _columns(path, "utf-8-sig", lambda line: line.split("\t"), skip=1)
    return _recbole(path)


def _columns(
    path: Path, encoding: str, split: Callable[[str], list[str]], skip: int
) -> dict[str, str]:
    titles: dict[str, str] = {}
    for number, line in enumerate(_lines(path, encoding), start=1):
        if number <= skip or not line:
            continue
        fields = split(line)
        if len(fields) < 2:
            raise InputError(f"{path}:{number}: no title on the line; correct or remove it")
        titles[fields[0]] = fields[1]
    return titles


def _recbole(path: Path) -> dict[str, str]:
    lines = _lines(path, "utf-8-sig")
    header = [field.split(":")[0] for field in (lines[0] if lines else "").split("\t")]
    title = next((name for name in header if name in ("title", "name") or "title" in name), None)
    if "item_id" not in header or title is None:
        raise InputError(
            f"{path}:1: the header needs item_id:token and a title column (such as "
            "movie_title:token_seq); add them, or move the file away to go without titles"
        )
    titles: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            raise InputError(
                f"{path}:{number}: {len(fields)} fields where the header has {len(header)}; "
                "correct the line"
            )
        row = dict(zip(header, fields, strict=True))
        year = row.get("release_year", "")
        titles[row["item_id"]] = f"{row[title]} ({year})" if year else row[title]
    return titles


def _lines(path: Path, encoding: str) -> list[str]:
    try:
        # Not splitlines(): titles may hold characters that it takes for line ends.
        return [line.rstrip("\r\n") for line in path.read_text(encoding).split("\n")]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not {encoding} text; convert it, or move it away") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
