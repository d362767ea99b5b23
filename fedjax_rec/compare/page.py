"""The page of a comparison: one HTML file that needs nothing else, its figures as PNG beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.compare.figures import comparison_pictures
from fedjax_rec.compare.standings import Standings
from fedjax_rec.compare.tables import caption, rank_shift, significance_words, standings_columns
from fedjax_rec.reports.page import embedded, render, write_with_pictures
from fedjax_rec.reports.words import (
    PROTOCOL_TEXT,
    PUBLISHED_WARNING,
    SPLIT_NAMES,
    comparability_notes,
    setting_text,
)
from fedjax_rec.sweep.manifest import Entry

__all__ = ["write_page"]


def write_page(
    target: Path,
    standings: Sequence[Standings],
    record: Mapping[str, Any],
    unfinished: Sequence[Entry],
) -> Path:
    """Writes the page and its figures.

    Args:
      target: the HTML file.
      standings: of each protocol, at least one.
      record: what was asked for.
      unfinished: trials that failed or were killed.

    Returns:
      The HTML file.

    Raises:
      InputError: a place that cannot be written.
    """
    pictures = {one.protocol: comparison_pictures(one) for one in standings}
    runs = [profile.run for one in standings for profile in one.profiles.values()]
    shift = rank_shift(standings)
    seeds = standings[0].seeds
    page = render(
        "compare.html.j2",
        title=f"{runs[0].dataset} · {SPLIT_NAMES[runs[0].split]}",
        seeds=len(seeds),
        headline=[sentence for one in standings for sentence in significance_words(one)],
        inflated=PUBLISHED_WARNING if any(o.protocol == "published" for o in standings) else None,
        differences=_differences(standings),
        unfinished=[f"{e.folder.name}: {e.status}: {e.error}" for e in unfinished],
        sections=[
            {
                "protocol": one.protocol,
                "columns": standings_columns(one),
                "rows": len(one.frame),
                "caption": caption(one),
                "pictures": embedded(pictures[one.protocol]),
            }
            for one in standings
        ],
        shift=None
        if shift is None
        else {"columns": list(shift), "rows": shift.to_numpy().tolist()},
        explained=[PROTOCOL_TEXT[one.protocol] for one in standings] + setting_text(runs),
        notes=list(dict.fromkeys(note for run in runs for note in run.config["data"]["notes"])),
        command=record["command"],
        methods=[
            (str(entry["label"]), _settings(standings, str(entry["label"])))
            for entry in record["methods"]
        ],
    )
    write_with_pictures(target, page, [p for found in pictures.values() for p in found])
    return target


def _differences(standings: Sequence[Standings]) -> list[str]:
    """What sets runs of one protocol apart and should not; the seed is the comparison's own."""
    found: dict[str, None] = {}
    for one in standings:
        runs = [profile.run for profile in one.profiles.values()]
        notes = (
            n for n in comparability_notes(runs) if not n.startswith("These runs differ in seed")
        )
        found |= dict.fromkeys(notes)
    return list(found)


def _settings(standings: Sequence[Standings], label: str) -> list[tuple[str, str]]:
    """Resolved options of a contestant's method, and its rounds; none where nothing is finished."""
    for one in standings:
        if label in one.profiles:
            config = one.profiles[label].run.config
            options = {"method": config["method"], **config["method_options"]}
            options["rounds"] = config["run"]["rounds"]
            return [(name, str(value)) for name, value in options.items()]
    return []
