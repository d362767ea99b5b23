"""The layout of a delimited file, from its first lines and what the user says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fedjax_rec.data.table import Role, open_text, separator_name, split_fields
from fedjax_rec.errors import InputError

__all__ = ["Column", "Layout", "sniff"]

Column = str | int | None
"""Where a column stands: its name in the header, its position from 0, or None to find it."""

_SEPARATORS = ("::", "\t", ";", ",")  # The rarest in titles and numbers first.
_ROLES: tuple[Role, ...] = ("user", "item", "rating", "timestamp")
_USUAL_NAMES: dict[Role, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid"),
    "item": (
        "item",
        "itemid",
        "iid",
        "movie",
        "movieid",
        "artist",
        "artistid",
        "asin",
        "productid",
    ),
    "rating": ("rating", "weight", "score", "stars", "count", "overall", "preference"),
    "timestamp": ("timestamp", "time", "ts", "date", "unixreviewtime", "unixtime"),
}


@dataclass(frozen=True)
class Layout:
    """How to read a file.

    Attributes:
      separator: between fields.
      first: 0-based index of the first line with data.
      width: fields a line.
      names: the header's names, or () without a header.
      positions: 0-based position of each role's column; user and item are always there.
    """

    separator: str
    first: int
    width: int
    names: tuple[str, ...]
    positions: Mapping[Role, int]


def sniff(
    path: Path,
    *,
    separator: str | None = None,
    header: bool | None = None,
    columns: Mapping[Role, Column] | None = None,
) -> Layout:
    """Finds out how a delimited file is laid out.

    Args:
      path: the file.
      separator: between fields, or None to try ``::``, tab, semicolon and comma.
      header: whether the first line holds names; None: it does where one of its fields is a
        usual name or one that the user gave, or where its third field is no number.
      columns: what the user says about where columns stand.

    Returns:
      The layout.

    Raises:
      InputError: the file is missing or empty, no separator is found, or a column cannot be
        found.
    """
    given = {role: column for role, column in (columns or {}).items() if column is not None}
    start, text = _first_line(path)
    separator = _separator(path, start, text, separator)
    fields = [field.strip() for field in split_fields(text, separator)]
    # "2" from a command line is a position before it is a name.
    named = {str(column) for column in given.values() if not str(column).isdigit()}
    if header is None:
        header = bool(
            any(_role(field) for field in fields)
            or named & set(fields)
            or (len(fields) > 2 and not given and not _is_number(fields[2]))
        )
    positions: dict[Role, int] = {}
    for role in _ROLES:
        if role in given:
            positions[role] = _position(path, role, given[role], fields, header)
        elif header:
            if found := [k for k, field in enumerate(fields) if _role(field) == role]:
                positions[role] = found[0]
        elif not given and _ROLES.index(role) < len(fields):
            positions[role] = _ROLES.index(role)
    for role in ("user", "item"):
        if role not in positions:
            shown = ", ".join(fields[:8])
            raise InputError(
                f"{path}:{start + 1}: no {role} column among {shown!r}; say which one it is with "
                f"{role}=NAME or {role}=POSITION"
            )
    taken: dict[int, str] = {}
    for role, position in positions.items():
        if position in taken:
            raise InputError(
                f"{path}: {taken[position]} and {role} both name the column "
                f"{fields[position]!r}; name another for one of them"
            )
        taken[position] = role
    return Layout(
        separator=separator,
        first=_first_line(path, after=start)[0] if header else start,
        width=len(fields),
        names=tuple(fields) if header else (),
        positions=positions,
    )


def _first_line(path: Path, after: int = -1) -> tuple[int, str]:
    """The first line after another one that is not blank, and its index from 0."""
    if path.is_dir():
        raise InputError(f"{path}: a folder where a file is expected; name the file in it")
    with open_text(path) as file:
        try:
            # A file that begins with a million blank lines is no file of interactions.
            for start, line in enumerate(islice(file, after + 1000)):
                if start > after and line.strip():
                    return start, line.rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(
                f"{path}: not UTF-8 text; convert it (iconv -f latin1 -t utf-8), or check that it "
                "is a text file"
            ) from None
    raise InputError(f"{path}: no interactions in it; check that it is the file meant")


def _separator(path: Path, start: int, text: str, given: str | None) -> str:
    if given is not None:
        separator = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(given, given)
        if separator != "::" and len(separator) != 1:
            raise InputError(f"separator={given!r} is no separator; give one character, or '::'")
        if separator not in text:
            raise InputError(
                f"{path}:{start + 1}: no {separator_name(separator)} on the line; pass the "
                "separator that the file uses, or none to have it found"
            )
        return separator
    for separator in _SEPARATORS:
        if separator in text:
            return separator
    raise InputError(
        f"{path}:{start + 1}: no comma, tab, semicolon or '::' on the line; pass separator= if "
        "the file uses another one"
    )


def _position(path: Path, role: Role, column: str | int, fields: list[str], header: bool) -> int:
    names = [field.split(":")[0] for field in fields]
    if isinstance(column, str) and header:
        for listing in (fields, names):  # "rating:float" by its whole name or by "rating".
            if column in listing:
                return listing.index(column)
    position = int(column) if isinstance(column, int) or str(column).isdigit() else -1
    if 0 <= position < len(fields):
        return position
    having = f"the header has {', '.join(fields[:8])}" if header else "there is no header"
    raise InputError(
        f"{path}: unknown column {role}={column!r}: {having}, and positions go from 0 to "
        f"{len(fields) - 1}; name one of these"
    )


def _role(field: str) -> Role | None:
    """The role that a header's name means: ``user_id:token``, ``userId`` and ``UserID`` alike."""
    plain = field.split(":")[0].replace("_", "").replace(" ", "").lower()
    return next((role for role in _ROLES if plain in _USUAL_NAMES[role]), None)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
