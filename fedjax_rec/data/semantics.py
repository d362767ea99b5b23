"""What items are about, as vectors: from their text, from an encoder, or from a file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from fedjax_rec.data.arrays import load_arrays
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.item_text import sentence_vectors, text_vectors
from fedjax_rec.data.options import check_seed
from fedjax_rec.errors import InputError, RunWarning

__all__ = ["MissingSemanticsWarning", "item_semantics"]

_ENCODER = "sentence-transformers"
_DEFAULT_MODEL = "all-MiniLM-L6-v2"


class MissingSemanticsWarning(RunWarning):
    """Some items have no content vector of their own and get the mean of the others."""


def item_semantics(
    dataset: Dataset, source: str | Path | None = None, *, seed: int = 0, width: int = 128
) -> np.ndarray:
    """Content vectors of a dataset's items: like items, near vectors.

    Items that the source lacks get the mean of the others, with a warning.

    Args:
      dataset: for the item ids, and for titles and genres where the source is text.
      source: where the vectors come from:

        - None or ``"text"``: TF-IDF and a truncated SVD of titles and genres, see
          `fedjax_rec.data.item_text.text_vectors`. Needs nothing else.
        - a path that ends in ``.npz``: arrays ``item_id`` ([n] integers or text, the dataset's own
          ids, in any order) and ``embedding`` ([n, w] numbers, float16 will do). Items that the
          dataset does not have are left out. Nothing pickled is loaded.
        - ``"sentence-transformers"`` or ``"sentence-transformers:MODEL"``: ``"title (year).
          Genres: a, b"`` encoded by that package, by default with all-MiniLM-L6-v2. The model must
          be on this machine.
      seed: of the text route's SVD.
      width: columns of the text route, at most; other sources have their own width.

    Returns:
      [num_items, w] float32, finite, in the order of ``dataset.item_ids``.

    Raises:
      InputError: an unknown source; text wanted where the dataset has none; a file that cannot be
        used; a package or model that is not there; a bad width or seed.

    Warns:
      MissingSemanticsWarning: items without a vector of their own, with their count.

    Example:
      >>> from fedjax_rec.data import synthetic
      >>> item_semantics(synthetic(users=20, items=40, interactions_per_user=8), width=16).shape
      (40, 16)
    """
    check_seed(seed)
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
        raise InputError(f"width={width!r} is no width of vectors; give an integer of 1 or more")
    name = "text" if source is None else os.fspath(source)
    kind, _, model = name.partition(":")
    if name == "text":
        rows, vectors = text_vectors(*_texts(dataset), width=int(width), seed=int(seed))
        origin = "a title or genre that another item shares"
    elif kind == _ENCODER:
        rows, vectors = sentence_vectors(*_texts(dataset), model=model or _DEFAULT_MODEL)
        origin = "a title or genre"
    elif Path(name).suffix.lower() == ".npz":
        rows, vectors = _archived(Path(name), dataset)
        origin = f"a vector in {name}"
    else:
        raise InputError(
            f"semantics={name!r} is no source of item vectors; take text, {_ENCODER}, "
            f"{_ENCODER}:MODEL, or the path of an archive that ends in .npz"
        )
    return _filled(dataset, rows, vectors, origin)


def _texts(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Titles and genres, "" where unknown; raises InputError where there is no text at all."""
    titles, genres = (
        [""] * dataset.num_items if texts is None else texts.tolist()
        for texts in (dataset.item_titles, dataset.item_genres)
    )
    if not any(text.strip() for text in (*titles, *genres)):
        raise InputError(
            f"{dataset.name}: no titles and no genres, but the semantic channel needs content "
            "(vectors made from co-occurrence are no substitute): put the title file beside the "
            "data, give --semantics PATH.npz, or run --without semantic"
        )
    return titles, genres


def _archived(path: Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the dataset that the archive knows, and their vectors."""
    arrays = load_arrays(path, ("item_id", "embedding"), what="an .npz of item vectors")
    ids, vectors = _checked_ids(path, arrays["item_id"]), arrays["embedding"]
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.shape[1] < 1:
        raise InputError(
            f"{path}: 'embedding' has shape {vectors.shape} where {len(ids)} item ids need "
            f"({len(ids)}, width); save one row an item"
        )
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{path}: 'embedding' is {vectors.dtype}; save numbers, such as float32")
    with np.errstate(over="ignore"):  # Too large for float32: inf, which is refused below.
        vectors = vectors.astype(np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise InputError(
            f"{path}: the vector of item {ids[int(bad.argmax())]!r} holds NaN or infinity (as do "
            f"{int(bad.sum())} in all); correct or leave out the item"
        )
    row_of = {item: row for row, item in enumerate(ids)}
    own = [str(item) for item in dataset.item_ids]
    rows = np.flatnonzero([item in row_of for item in own])
    if not len(rows):
        raise InputError(
            f"{path}: none of its item ids (such as {ids[0]!r}) is one of {dataset.name} (such as "
            f"{own[0]!r}); write the dataset's own ids"
        )
    _refuse_shift(path, set(ids), own)
    return rows, vectors[[row_of[own[row]] for row in rows]]


def _checked_ids(path: Path, array: np.ndarray) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: 'item_id' is {array.dtype} of shape {array.shape}; save one-dimensional "
            "integers or text"
        )
    if not len(array):
        raise InputError(f"{path}: no items in it; check that it is the file meant")
    ids = array.astype(str).tolist()
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise InputError(f"{path}: item {item!r} stands twice in 'item_id'; keep one of them")
        seen.add(item)
    return ids


def _refuse_shift(path: Path, ids: set[str], own: list[str]) -> None:
    """Refuses ids that count from 1 where the dataset counts from 0, or the other way round.

    Nearly all of them are found then, each one item off: nothing else would tell.
    """
    if not all(item.isdecimal() for item in own):
        return
    lowest, highest = min(map(int, own)), max(map(int, own))
    if highest - lowest >= len(own):
        return
    strange = ids.difference(own)
    for extra, lacking, first in (
        (highest + 1, lowest, lowest + 1),
        (lowest - 1, highest, lowest - 1),
    ):
        if strange == {str(extra)} and str(lacking) not in ids:
            raise InputError(
                f"{path}: has item {extra} but not {lacking}, where the data have {lowest} to "
                f"{highest}, so its ids look shifted by one; load data in .npz with the option "
                f"first_id={first}, or write the dataset's own ids"
            )


def _filled(dataset: Dataset, rows: np.ndarray, vectors: np.ndarray, origin: str) -> np.ndarray:
    """[num_items, w] float32: the vectors in their rows, their mean in the others."""
    missing = np.ones(dataset.num_items, bool)
    missing[rows] = False
    filled = np.empty((dataset.num_items, vectors.shape[1]), np.float32)
    filled[rows] = vectors
    if missing.any():
        filled[missing] = vectors.mean(axis=0, dtype=np.float64)
        warnings.warn(
            f"{int(missing.sum()):,} of {dataset.num_items:,} items lack {origin} (such as item "
            f"{str(dataset.item_ids[int(missing.argmax())])!r}): they get the mean of the others",
            MissingSemanticsWarning,
            stacklevel=3,
        )
    return filled
