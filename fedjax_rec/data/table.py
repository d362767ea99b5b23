"""One text file of interactions into columns: fast, and with the line of every mistake.

The C parser of pandas reads the file. When a value cannot be used, a second and slower look
finds its line, because an error without its line is useless in a million rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fedjax_rec.errors import InputError

__all__ = ["Columns", "Role", "read_columns", "open_text", "separator_name", "split_fields"]

Role = Literal["user", "item", "rating", "timestamp"]


@dataclass(frozen=True)
class Columns:
    """The columns of a file, one entry a row, in file order.

    Attributes:
      user, item: [n] int64 codes into ``user_ids`` and ``item_ids``.
      user_ids, item_ids: arrays of str, in no particular order, possibly with unused entries.
      rating: [n] float64, finite, or None where the file has none.
      timestamp: [n] float64 seconds, finite, or None.
      line: [n] int64, the line of the file on which each row stands, from 1.
    """

    user: np.ndarray
    item: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    rating: np.ndarray | None
    timestamp: np.ndarray | None
    line: np.ndarray


def read_columns(
    path: Path, *, separator: str, first: int, width: int, positions: Mapping[Role, int]
) -> Columns:
    """Reads the columns that have a role.

    Args:
      path: a UTF-8 text file (a byte order mark is allowed), one interaction a line. Blank
        lines are skipped.
      separator: one character, or ``"::"``. Fields may be quoted with ``"`` where it is a comma
        or a semicolon.
      first: the 0-based index of the first line with data; those before it are not read.
      width: the number of fields a line must have.
      positions: the 0-based position of the user, of the item and, where the file has them, of
        the rating and the timestamp.

    Returns:
      The columns.

    Raises:
      InputError: a line with too many or too few fields, an empty id, a number that is not one
        or is not finite, text that is not UTF-8, a quote that is never closed.
    """
    numbers: list[Role] = [r for r in ("rating", "timestamp") if r in positions]
    # Not "category": pandas would read ids that are all digits as numbers, and 007 as 7.
    types = {k: "float64" if k in _at(positions, numbers) else "str" for k in range(width)}
    try:
        frame = _parse(path, separator, first, positions, numbers, types)
    except UnicodeDecodeError:
        raise InputError(_not_utf8(path)) from None
    except pd.errors.EmptyDataError:
        raise InputError(
            f"{path}: no interactions in it; check that it is the file meant"
        ) from None
    except pd.errors.ParserError as error:
        raise InputError(_unparsable(path, str(error))) from None
    except ValueError:
        # Some number is not one: read it all again as text to find out which.
        frame = _parse(path, separator, first, positions, numbers, "str")

    frame = frame.reindex(columns=range(max(width, frame.shape[1])))
    if frame.shape[1] > width:
        raise InputError(_wrong_width(path, first + 1, frame.shape[1], width))
    blank = _empty(frame[positions["user"]]) & _empty(frame[positions["item"]])
    blank &= frame.drop(columns=_at(positions, ["user", "item"])).apply(_empty).all(axis=1)
    line = np.arange(first + 1, first + 1 + len(frame), dtype=np.int64)
    if blank.any():
        frame, line = frame[~blank], line[~blank.to_numpy()]
    if not len(frame):
        raise InputError(f"{path}: no interactions in it; check that it is the file meant")

    for role in ("user", "item"):
        bad = _empty(frame[positions[role]]).to_numpy()
        if bad.any():
            raise InputError(_bad_value(path, int(line[bad.argmax()]), role, separator, width))
    values: dict[Role, np.ndarray] = {}
    for role in numbers:
        column = frame[positions[role]]
        if column.dtype != np.float64:
            column = pd.to_numeric(column.astype(object), errors="coerce")
        values[role] = column.to_numpy(np.float64)
    finite = [np.isfinite(values[role]) for role in numbers]
    if finite and not np.logical_and.reduce(finite).all():
        # The first bad line, not the first bad column.
        row = int(np.logical_and.reduce(finite).argmin())
        role = next(r for r, ok in zip(numbers, finite, strict=True) if not ok[row])
        raise InputError(_bad_value(path, int(line[row]), role, separator, width))

    # Blanks behind an id are the file's, not the id's (one line of Last.fm has "65  ").
    user, item = (
        frame[positions[role]].str.rstrip(" ").astype("category").cat for role in ("user", "item")
    )
    return Columns(
        user=user.codes.to_numpy(np.int64),
        item=item.codes.to_numpy(np.int64),
        user_ids=user.categories.to_numpy(str),
        item_ids=item.categories.to_numpy(str),
        rating=values.get("rating"),
        timestamp=values.get("timestamp"),
        line=line,
    )


def open_text(path: Path) -> io.TextIOWrapper:
    """Opens a UTF-8 text file for reading, without its byte order mark.

    Raises:
      InputError: it is missing, a folder, or may not be read.
    """
    try:
        return open(path, encoding="utf-8-sig", newline=None)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def split_fields(line: str, separator: str) -> list[str]:
    """Splits one line the way `read_columns` does, quotes included."""
    if separator in (",", ";"):
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [""])
    return line.split(separator)


def separator_name(separator: str) -> str:
    """What to call a separator in a message."""
    return {"\t": "tab", ",": "comma", ";": "semicolon"}.get(separator, repr(separator))


def _parse(
    path: Path,
    separator: str,
    first: int,
    positions: Mapping[Role, int],
    numbers: list[Role],
    types: Any,
) -> pd.DataFrame:
    source: Any = path
    if separator == "::":
        # The C parser takes separators of one character only.
        source, separator = io.BytesIO(path.read_bytes().replace(b"::", b"\x1f")), "\x1f"
    return pd.read_csv(
        source,
        sep=separator,
        header=None,
        skiprows=first,
        dtype=types,
        encoding="utf-8-sig",
        engine="c",
        quoting=csv.QUOTE_MINIMAL if separator in ",;" else csv.QUOTE_NONE,
        skipinitialspace=True,
        skip_blank_lines=False,  # So that rows and lines stay in step.
        keep_default_na=False,  # "NA" and "null" are good ids ...
        na_values={positions[role]: [""] for role in numbers},  # ... and only "" is no number.
    )


def _at(positions: Mapping[Role, int], roles: list[Role]) -> list[int]:
    return [positions[role] for role in roles]


def _empty(column: pd.Series) -> pd.Series:
    return column.isna() | (column == "") if column.dtype != np.float64 else column.isna()


def _line(path: Path, number: int) -> str:
    with open_text(path) as file:
        return next(islice(file, number - 1, None), "").rstrip("\r\n")


def _bad_value(path: Path, number: int, role: str, separator: str, width: int) -> str:
    text = _line(path, number)
    fields = len(split_fields(text, separator))
    if fields != width:
        return _wrong_width(path, number, fields, width)
    shown = text if len(text) <= 80 else text[:77] + "..."
    what = "is empty" if role in ("user", "item") else "is not a finite number"
    return f"{path}:{number}: the {role} {what} in {shown!r}; correct or remove the line"


def _wrong_width(path: Path, number: int, fields: int, width: int) -> str:
    return (
        f"{path}:{number}: {fields} fields where {width} are expected; correct the line, or pass "
        "separator= if another one is meant"
    )


def _unparsable(path: Path, message: str) -> str:
    if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        width, number, fields = (int(group) for group in match.groups())
        return _wrong_width(path, number, fields, width)
    if match := re.search(r"EOF inside string starting at row (\d+)", message):
        return f'{path}: a quote (") is opened and never closed; close it or double it'
    return f"{path}: cannot be parsed ({message.strip()}); is it a text file of interactions?"


def _not_utf8(path: Path) -> str:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"{path}:{number}: not UTF-8 text; convert it (iconv -f latin1 -t utf-8)"
    return f"{path}: not UTF-8 text; convert it (iconv -f latin1 -t utf-8)"
