"""Recall against bytes: the smallest federation that keeps 98 % of the recall.

ML-100K over 100 silos. FedMF at several widths, RQFedRec over codewords, levels, widths, bits and
channels, and, from their own benchmark's results, FedCIA and its graph filter; local MF, which
sends nothing, is the level to beat. Bytes are a client's mean a round, down and up together. What
is "smallest" is chosen by validation recall; the figure shows test recall.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ratio_runs
import ratio_settings
import rqfedrec_figures
from harness import RESULTS, Table, dataset, main
from ratio_runs import RatioOptions

from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError
from fedjax_rec.units import human_bytes

__all__ = ["POINTS", "BytesOptions", "fedcia_rows", "run", "smallest"]

FEDERATION = "ml-100k-ratio"
KEPT = 0.98  # of the recall

POINTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "local-mf": ({"dim": 512},),
    "popularity": ({},),
    "fedmf": (
        *({"dim": dim} for dim in (8, 16, 32, 64, 512)),
        {"dim": 32, "bits": 8},
        {"dim": 64, "bits": 4},
    ),
    "rqfedrec": (
        # Width, at the paper's M = 256 and L = 3.
        *({"dim": dim} for dim in (16, 64, 512)),
        # Codewords, at a width that a client can afford.
        {"dim": 64, "codewords": 128},
        {"dim": 64, "codewords": 512},
        {"dim": 32, "codewords": 512},
        # One channel: half of the bytes while λ is between 0 and 1.
        {"dim": 64, "without": "semantic"},
        {"dim": 32, "without": "semantic"},
        {"dim": 16, "without": "semantic"},
        {"dim": 64, "without": "semantic", "bits": 8},
    ),
}
"""Method -> what is trained of it: options that differ from the settings."""


@dataclass(frozen=True)
class BytesOptions(RatioOptions):
    """Options of the bytes benchmark; --dim plays no part, `POINTS` has the widths.

    Attributes:
      methods: which to train: local-mf, popularity, fedmf, rqfedrec.
      fedcia: results of fedcia_ml100k.py to take FedCIA from; by default those beside this
        benchmark's own. With --toy, none.
    """

    methods: tuple[str, ...] = tuple(POINTS)
    fedcia: Path | None = None


def run(options: BytesOptions) -> Table:
    """Trains every point; one row each. Draws the figure beside the table."""
    ratio_runs.check(options)
    if unknown := [name for name in options.methods if name not in POINTS]:
        raise InputError(f"--methods {' '.join(unknown)}: choose from {', '.join(POINTS)}")
    table = Table("recall_bytes", "Recall against bytes, ML-100K, 100 silos, test", options)
    data = dataset(FEDERATION, options)
    for name in options.methods:
        points = POINTS[name]
        for point in [*points[:1], *points[1:][-1:]] if options.toy else points:
            found = ratio_runs.measure(name, FEDERATION, options, data=data, **point)
            table.add(**_row(name, _sizes(name, point, data, options), found))
    if not options.toy:
        file = options.fedcia or (options.results or RESULTS) / "fedcia_ml100k.json"
        rows, said = fedcia_rows(file)
        for row in rows:
            table.add(**row)
        for line in said:
            table.note(line)
    for line in _choose(table.rows):
        table.note(line)
    for line in ratio_runs.notes(options):
        table.note(line)
    table.note(
        "'bits' are of the upload, by row; downloads are float32, and codes travel at their bit "
        "width in every round. RQFedRec sends one channel while λ is 0 or 1, two in between."
    )
    path = table.save()
    if path is not None:
        picture = rqfedrec_figures.draw_recall_bytes(table.rows)
        picture.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    return table


def fedcia_rows(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """FedCIA's rows with 100 silos from the results of ``fedcia_ml100k.py``.

    Returns:
      The rows, and notes: where they come from, or why there are none.
    """
    again = "run benchmarks/fedcia_ml100k.py (it goes on from what it has trained)"
    if not file.exists():
        return [], [f"FedCIA is missing, for want of {file.name}: {again}"]
    rows, said = [], []
    for found in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        if found.get("clients") != 100 or found["method"] not in ("fedcia", "fedcia-gf"):
            continue
        if "MB down" not in found:
            said.append(f"{found['method']} is missing: {file.name} has no 'MB down'; {again}")
            continue
        figures = {key: value for key, value in found.items() if key not in ("clients", "method")}
        rows.append(_row(found["method"], {}, {"seeds": 1, **figures}))
    if rows:
        said.append(f"fedcia, fedcia-gf: from {file.name}, with the settings there, one seed.")
    return rows, said


def smallest(rows: Sequence[dict[str, Any]], recall: float) -> dict[str, Any] | None:
    """The row of the fewest bytes whose validation recall is at least ``recall``, or None."""
    enough = [row for row in rows if row["val Recall"] >= recall]
    return min(enough, key=lambda row: row["kB"], default=None)


def _sizes(
    name: str, point: Mapping[str, Any], data: Dataset, options: BytesOptions
) -> dict[str, Any]:
    """What decides a method's bytes, beside its width, as its configuration resolves it."""
    made = ratio_settings.build(
        name, FEDERATION, data, toy=options.toy, **{"dim": options.dim, **point}
    )
    sizes = {"bits": getattr(made.config, "bits", None)}
    if name == "rqfedrec":
        left_out = made.config.without in ("semantic", "collaborative")
        sizes |= {
            "M": made.config.codewords,
            "L": made.config.levels,
            "channels": 1 if left_out else 2,
        }
    return sizes


def _row(name: str, sizes: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    down, up = 1000 * found["MB down"], 1000 * found["MB up"]
    kept = {key: value for key, value in found.items() if key not in ("d", "MB down", "MB up")}
    return {
        "method": name,
        "d": found["d"],
        **{size: sizes.get(size) for size in ("M", "L", "channels", "bits")},
        "kB": down + up,
        "kB down": down,
        "kB up": up,
        **kept,
        "smallest": None,
    }


def _choose(rows: list[dict[str, Any]]) -> list[str]:
    """Marks, in their rows, the smallest that keep the recall of a reference; a line for each.

    Marked are: the smallest of all that keeps the best recall, and FedMF's at its widest; and the
    smallest RQFedRec that keeps RQFedRec's best.
    """
    fedmf = [row for row in rows if row["method"] == "fedmf" and row["bits"] is None]
    rqfedrec = [row for row in rows if row["method"] == "rqfedrec"]
    references = (
        ("the best", _highest(rows, "val Recall"), "any method"),
        ("FedMF's widest", _highest(fedmf, "d"), "any method"),
        ("RQFedRec's best", _highest(rqfedrec, "val Recall"), "rqfedrec"),
    )
    said = []
    for called, reference, marked in references:
        if reference is None:
            continue
        parts = []
        for name in ("any method", "rqfedrec", "fedmf"):
            candidates = [row for row in rows if name in ("any method", row["method"])]
            found = smallest(candidates, KEPT * reference["val Recall"])
            if found is None:
                continue
            parts.append(f"{name}: {_name(found)}, {human_bytes(1e3 * found['kB'])}")
            if name == marked:
                found["smallest"] = ", ".join(filter(None, [found["smallest"], called]))
        said.append(
            f"Fewest bytes with {KEPT:.0%} of the validation recall of {called}, "
            f"{_name(reference)} ({human_bytes(1e3 * reference['kB'])}): {'; '.join(parts)}."
        )
    return said


def _highest(rows: Sequence[dict[str, Any]], column: str) -> dict[str, Any] | None:
    return max(rows, key=lambda row: row[column], default=None)


def _name(row: Mapping[str, Any]) -> str:
    parts = [f"{key} {row[key]}" for key in ("d", "M", "L", "bits") if row[key] is not None]
    one = ["one channel"] if row["channels"] == 1 else []
    return " ".join([row["method"], ", ".join([*parts, *one])]).strip()


if __name__ == "__main__":
    main(BytesOptions, run, __doc__ or "")
