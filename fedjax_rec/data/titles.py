"""Titles and genres of items, from the file that a dataset keeps beside its interactions."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.errors import InputError

__all__ = ["ItemText", "find_titles", "read_titles", "with_titles"]

# The 19 flags that end a line of u.item, in the order of the dataset's own u.genre.
_U_ITEM_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_U_ITEM_WIDTH = 5 + len(_U_ITEM_GENRES)
# What the sources write where they know no genre.
_NO_GENRE = ("", "unknown", "(no genres listed)")


class ItemText(NamedTuple):
    """What a title file says of one item."""

    title: str
    """With its year where the file has one: ``"Toy Story (1995)"``; "" where unknown."""
    genres: str
    """Separated by ``|``: ``"Animation|Children's|Comedy"``; "" where unknown."""


def with_titles(dataset: Dataset, path: Path | None) -> Dataset:
    """Adds the titles and the genres of a title file to a dataset.

    Args:
      dataset: any dataset.
      path: the title file, or None to leave the dataset as it is.

    Returns:
      A copy with ``item_titles`` and ``item_genres`` ([num_items] str, "" for items that the file
      lacks); either is None where the file has none for any of the items.

    Raises:
      InputError: the file cannot be used (see `read_titles`).
    """
    if path is None:
        return dataset
    known, nothing = read_titles(path), ItemText("", "")
    found = [known.get(str(item), nothing) for item in dataset.item_ids]
    return replace(
        dataset,
        item_titles=_unless_empty([text.title for text in found]),
        item_genres=_unless_empty([text.genres for text in found]),
    )


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


def read_titles(path: Path) -> dict[str, ItemText]:
    """Reads the titles and genres of items.

    Genres are the 19 flags of ``u.item``, the third column of ``movies.dat`` and ``movies.csv``,
    and in a ``.item`` file the column ``class`` or the first one named after genres
    (``genre:token_seq``). "unknown" and "(no genres listed)" count as none. ``artists.dat`` has
    no genres.

    Args:
      path: MovieLens ``u.item`` or ``movies.dat`` (Latin-1), ``movies.csv``, HetRec
        ``artists.dat``, or a RecBole ``.item`` file.

    Returns:
      The text of each item id. A RecBole ``release_year`` is appended to the title in brackets, as
      MovieLens itself writes it: ``"Toy Story (1995)"``.

    Raises:
      InputError: a line with too few fields or a flag that is none; a ``.item`` header without id
        or title.
    """
    if path.name == "u.item":
        return _columns(path, "latin-1", lambda line: line.split("|"), _flags, skip=0)
    if path.name == "movies.dat":
        return _columns(path, "latin-1", lambda line: line.split("::"), _third, skip=0)
    if path.name == "movies.csv":
        return _columns(path, "utf-8-sig", lambda line: next(csv.reader([line])), _third, skip=1)
    if path.name == "artists.dat":
        return _columns(path, "utf-8-sig", lambda line: line.split("\t"), lambda _: "", skip=1)
    return _recbole(path)


def _columns(
    path: Path,
    encoding: str,
    split: Callable[[str], list[str]],
    genres: Callable[[list[str]], str],
    skip: int,
) -> dict[str, ItemText]:
    texts: dict[str, ItemText] = {}
    for number, line in enumerate(_lines(path, encoding), start=1):
        if number <= skip or not line:
            continue
        fields = split(line)
        if len(fields) < 2:
            raise InputError(f"{path}:{number}: no title on the line; correct or remove it")
        try:
            texts[fields[0]] = ItemText(fields[1], genres(fields))
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}; correct or remove the line") from None
    return texts


def _flags(fields: list[str]) -> str:
    """The genres of a line of u.item; none where the line is cut short before its flags."""
    if len(fields) < _U_ITEM_WIDTH:
        return ""
    flags = fields[-len(_U_ITEM_GENRES) :]
    for flag in flags:
        if flag not in ("0", "1"):
            raise ValueError(f"{flag!r} where a genre's flag is 0 or 1")
    return _joined(name for name, flag in zip(_U_ITEM_GENRES, flags, strict=True) if flag == "1")


def _third(fields: list[str]) -> str:
    return _joined(fields[2].split("|")) if len(fields) > 2 else ""


def _recbole(path: Path) -> dict[str, ItemText]:
    lines = _lines(path, "utf-8-sig")
    typed = [field.partition(":")[::2] for field in (lines[0] if lines else "").split("\t")]
    header = [name for name, _ in typed]
    title = next((name for name in header if name in ("title", "name") or "title" in name), None)
    if "item_id" not in header or title is None:
        raise InputError(
            f"{path}:1: the header needs item_id:token and a title column (such as "
            "movie_title:token_seq); add them, or move the file away to go without titles"
        )
    genre, kind = next(
        ((name, kind) for name, kind in typed if name == "class" or "genre" in name.lower()),
        (None, ""),
    )
    texts: dict[str, ItemText] = {}
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
        names = "" if genre is None else row[genre]
        # A token_seq separates its tokens by blanks; a single token may hold them.
        split = names.replace(" ", "|") if kind.strip() == "token_seq" else names
        texts[row["item_id"]] = ItemText(
            f"{row[title]} ({year})" if year else row[title], _joined(split.split("|"))
        )
    return texts


def _joined(genres: Iterable[str]) -> str:
    return "|".join(name for genre in genres if (name := genre.strip()) not in _NO_GENRE)


def _unless_empty(texts: list[str]) -> np.ndarray | None:
    return np.array(texts, dtype=str) if any(texts) else None


def _lines(path: Path, encoding: str) -> list[str]:
    try:
        # Not splitlines(): titles may hold characters that it takes for line ends.
        return [line.rstrip("\r\n") for line in path.read_text(encoding).split("\n")]
    except UnicodeDecodeError:
        raise InputError(f"{path}: not {encoding} text; convert it, or move it away") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
