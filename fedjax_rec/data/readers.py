"""Files of interactions into datasets: one reader a format, and `read_dataset` that picks one.

Every reader takes ratings, weights or counts above 0 as positives and keeps the order of the
file. Ids may be any strings. Titles and genres come from the file that the source keeps beside
its interactions (see `fedjax_rec.data.titles`).
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_rec.data.archives import extract, is_archive
from fedjax_rec.data.assemble import Duplicates, assemble
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.npz import read_npz
from fedjax_rec.data.options import check_options
from fedjax_rec.data.sniffing import Column, Layout, sniff
from fedjax_rec.data.table import read_columns
from fedjax_rec.data.titles import find_titles, with_titles
from fedjax_rec.errors import InputError

__all__ = [
    "read_delimited",
    "read_hetrec",
    "read_movielens",
    "read_npz",
    "read_recbole",
    "read_dataset",
]

# In order of preference: ML-100K's folder here holds the same data as u.data and as .inter.
_USUAL_NAMES = ("u.data", "ratings.dat", "ratings.csv", "user_artists.dat", "*.inter")
_OTHER_NAMES = ("*.npz", "*.csv", "*.tsv", "*.dat", "*.data", "*.txt")


def read_dataset(path: str | Path, **options: Any) -> Dataset:
    """Reads a dataset, with the reader that its name and its first lines ask for.

    Args:
      path: a file; a folder with one dataset in it; or an archive of one (``.zip``, ``.tar``,
        ``.tar.gz``), which is unpacked into a temporary folder.
      **options: keyword options of the reader (for text files those of `read_delimited`).

    Returns:
      The dataset.

    Raises:
      InputError: nothing readable there, an option that the reader lacks, or bad contents.
    """
    path = Path(path)
    if path.is_dir():
        return read_dataset(_only_dataset(path), **options)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="fedjax-rec-") as folder:
            return read_dataset(extract(path, Path(folder) / path.stem), **options)
    reader = _reader(path)
    check_options(options, inspect.signature(reader), what=f"the reader of {path.name}")
    return reader(path, **options)


def read_delimited(
    path: str | Path,
    *,
    separator: str | None = None,
    header: bool | None = None,
    user: Column = None,
    item: Column = None,
    rating: Column = None,
    timestamp: Column = None,
    duplicates: Duplicates = "error",
) -> Dataset:
    """Reads ``user, item, rating, timestamp`` with any separator, with or without a header.

    What is not given is sniffed from the first lines. Without a header the columns stand in the
    order user, item, rating, timestamp, of which the last ones may be missing; with one they are
    found by the usual names (``userId``, ``movie_id``, ``weight``, ``ts`` ...).

    Args:
      path: a UTF-8 text file, one interaction a line.
      separator: between fields: ``","``, ``";"``, ``"::"`` or a tab (also written ``"tab"``).
      header: whether the first line holds names.
      user, item, rating, timestamp: where a column stands, by its name in the header or its
        position from 0.
      duplicates: what to do with a repeated (user, item) pair: refuse it with both lines named
        ("error"), or keep the one that stands "first" or "last" in the file.

    Returns:
      The dataset, with titles and genres where a title file that has them lies beside it.

    Raises:
      InputError: the file is missing, empty or not text; a column cannot be found; a line has
        the wrong number of fields, an empty id, a number that is not finite; a pair is repeated.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "plays.csv"
      >>> _ = path.write_text("who;what;when\\nann;tea;10\\nbob;tea;11\\n")
      >>> read_delimited(path, user="who", item="what", timestamp="when")
      Dataset('plays': 2 users, 1 items, 2 interactions)
    """
    path = Path(path)
    named: dict[Any, Column] = {"user": user, "item": item, "rating": rating}
    layout = sniff(
        path, separator=separator, header=header, columns={**named, "timestamp": timestamp}
    )
    return _read(path, layout, duplicates)


def read_movielens(path: str | Path, *, duplicates: Duplicates = "error") -> Dataset:
    """Reads MovieLens ``u.data`` (tabs) or ``ratings.dat`` (``::``): no header, four columns.

    Args:
      path: the file. Titles come from ``u.item`` or ``movies.dat`` beside it.
      duplicates: as in `read_delimited`.

    Returns:
      The dataset.

    Raises:
      InputError: as `read_delimited`.

    Reference:
      Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015.
    """
    path = Path(path)
    layout = sniff(path, separator="\t" if path.name == "u.data" else None, header=False)
    if layout.width != 4:
        raise InputError(
            f"{path}:{layout.first + 1}: {layout.width} fields where MovieLens has user, item, "
            "rating, time; read another layout with read_delimited"
        )
    return _read(path, layout, duplicates)


def read_recbole(path: str | Path, *, duplicates: Duplicates = "error") -> Dataset:
    """Reads a RecBole atomic ``.inter`` file: tabs, and a header such as ``user_id:token``.

    Args:
      path: the ``.inter`` file; needs ``user_id`` and ``item_id``, may have ``rating`` (or
        another weight) and ``timestamp``. Titles come from the ``.item`` file beside it.
      duplicates: as in `read_delimited`.

    Returns:
      The dataset.

    Raises:
      InputError: as `read_delimited`; and a header without types.

    Reference:
      Zhao et al., RecBole, CIKM 2021; its documentation on atomic files.
    """
    path = Path(path)
    layout = sniff(path, separator="\t", header=True)
    untyped = [name for name in layout.names if ":" not in name]
    if untyped:
        raise InputError(
            f"{path}:1: the column {untyped[0]!r} has no type; write user_id:token, "
            "item_id:token, rating:float, timestamp:float, or name the file .tsv"
        )
    return _read(path, layout, duplicates)


def read_hetrec(path: str | Path, *, duplicates: Duplicates = "error") -> Dataset:
    """Reads HetRec 2011 ``user_artists.dat``: user, artist, listening count, with tabs; no times.

    Args:
      path: the file, with or without its header line ``userID artistID weight``. Artist names
        come from ``artists.dat`` beside it.
      duplicates: as in `read_delimited`.

    Returns:
      The dataset, with ``timestamp=None``.

    Raises:
      InputError: as `read_delimited`.

    Reference:
      Cantador, Brusilovsky and Kuflik, HetRec 2011, RecSys 2011.
    """
    path = Path(path)
    layout = sniff(path, separator="\t")
    if layout.width != 3:
        raise InputError(
            f"{path}:{layout.first + 1}: {layout.width} fields where HetRec has user, artist, "
            "count; read another layout with read_delimited"
        )
    return _read(path, layout, duplicates)


def _read(path: Path, layout: Layout, duplicates: Duplicates) -> Dataset:
    columns = read_columns(
        path,
        separator=layout.separator,
        first=layout.first,
        width=layout.width,
        positions=layout.positions,
    )
    return with_titles(assemble(path, columns, duplicates=duplicates), find_titles(path))


def _reader(path: Path) -> Callable[..., Dataset]:
    if path.suffix == ".npz":
        return read_npz
    if path.suffix == ".inter":
        return read_recbole
    # MovieLens and HetRec files are plain delimited text, so read_delimited takes them too, and
    # with it a user keeps its options (a u.data with a column added, say).
    return read_delimited


def _only_dataset(folder: Path) -> Path:
    """The one file of interactions in a folder, or in its only subfolder."""
    for pattern in _USUAL_NAMES:
        if len(found := sorted(folder.glob(pattern))) == 1:
            return found[0]
    found = sorted(p for pattern in _OTHER_NAMES for p in folder.glob(pattern))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{folder}: several files could be the interactions "
            f"({', '.join(p.name for p in found[:4])}); name one"
        )
    inner = [p for p in folder.iterdir() if p.is_dir()]
    if len(inner) == 1:
        return _only_dataset(inner[0])
    raise InputError(
        f"{folder}: no interactions in the folder (looked for "
        f"{', '.join(_USUAL_NAMES + _OTHER_NAMES)}); name the file"
    )
