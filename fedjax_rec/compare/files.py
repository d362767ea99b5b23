"""What a comparison leaves for programs: ``comparison.json`` and ``comparison.parquet``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fedjax_rec.compare.significance import TEST
from fedjax_rec.compare.standings import Standings
from fedjax_rec.compare.tables import rank_shift
from fedjax_rec.errors import InputError
from fedjax_rec.simulation.folder import write_whole
from fedjax_rec.sweep.manifest import Entry

__all__ = ["write_files"]

_FORMAT = 1


def write_files(
    out: Path,
    standings: Sequence[Standings],
    record: Mapping[str, Any],
    unfinished: Sequence[Entry],
) -> list[Path]:
    """Writes both files, each as a whole.

    ``comparison.parquet`` is the frames of all protocols, one below the other (`Standings.frame`).
    ``comparison.json`` holds ``asked`` (the record), ``test``, ``standings`` (for each protocol
    its metric and the rows of its frame, with ``by_activity`` and ``by_popularity``),
    ``rank_shift`` (null without both protocols) and ``unfinished``. What is not known is null.

    Args:
      out: the comparison's folder.
      standings: of each protocol, at least one.
      record: what was asked for.
      unfinished: trials that failed or were killed.

    Raises:
      InputError: they cannot be written.
    """
    shift = rank_shift(standings)
    content = {
        "format": _FORMAT,
        "asked": record,
        "test": TEST,
        "standings": [
            {"protocol": one.protocol, "metric": one.metric, "methods": _rows(one)}
            for one in standings
        ],
        "rank_shift": None if shift is None else shift.to_dict("records"),
        "unfinished": [
            {"trial": entry.folder.name, "status": entry.status, "error": entry.error}
            for entry in unfinished
        ],
    }
    text = json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    frame = pd.concat([one.frame for one in standings], ignore_index=True)
    files = [out / "comparison.json", out / "comparison.parquet"]
    try:
        write_whole(files[0], lambda file: file.write(text))
        write_whole(files[1], lambda file: frame.to_parquet(file, index=False), mode="wb")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; free some space") from error
    return files


def _rows(standings: Standings) -> list[dict[str, Any]]:
    rows = []
    for row in standings.frame.to_dict("records"):
        profile = standings.profiles[row["label"]]
        for name in ("by_activity", "by_popularity"):
            row[name] = [asdict(group) for group in getattr(profile, name)]
        rows.append({str(name): value for name, value in row.items()})
    return rows


def _plain(value: Any) -> Any:
    """With None for what is no finite number: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
