"""The HTML report: one file that needs nothing else, and its figures as PNG files beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjax_rec.errors import InputError
from fedjax_rec.reports.clusters import cluster_examples
from fedjax_rec.reports.figures import report_figures
from fedjax_rec.reports.page import embedded, render, write_with_pictures
from fedjax_rec.reports.runs import Run, display_names, load_run
from fedjax_rec.reports.tables import comparison_cells, comparison_footnotes
from fedjax_rec.reports.words import (
    PROTOCOL_TEXT,
    PUBLISHED_WARNING,
    comparability_notes,
    headline,
    setting_text,
)
from fedjax_rec.units import human_bytes, human_count, human_seconds

__all__ = ["write_report"]


def write_report(run_dirs: Iterable[str | Path], out: str | Path) -> Path:
    """Writes the report of one run, or of several compared.

    The figures are embedded, and also written as ``<stem>-<figure>.png`` beside the report. Every
    file appears whole or not at all, the HTML last.

    Args:
      run_dirs: folders that ``fedjax-rec run --out`` wrote, finished or interrupted.
      out: the HTML file, or a folder in which ``report.html`` is written; made where missing.

    Returns:
      The path of the HTML file.

    Raises:
      InputError: no run given, a folder that is not a run, or a place that cannot be written.

    Example:
      write_report(["runs/cgfedrec", "runs/local"], "runs/report.html")
    """
    runs = [load_run(directory) for directory in run_dirs]
    if not runs:
        raise InputError("report: no run folder given; name at least one")
    target = Path(out)
    if target.is_dir() or not target.suffix:
        target = target / "report.html"
    pictures = report_figures(runs)
    page = render(
        "report.html.j2",
        runs=[_details(run, name) for run, name in zip(runs, display_names(runs), strict=True)],
        headline=headline(runs),
        settings=setting_text(runs),
        protocols=[PROTOCOL_TEXT[p] for p in PROTOCOL_TEXT if any(r.protocol == p for r in runs)],
        inflated=PUBLISHED_WARNING if any(r.protocol == "published" for r in runs) else None,
        differences=comparability_notes(runs),
        columns=comparison_cells(runs),
        footnotes=comparison_footnotes(runs),
        data_notes=_data_notes(runs),
        pictures=embedded(pictures),
    )
    write_with_pictures(target, page, pictures)
    return target


@dataclass(frozen=True)
class _Details:
    """What the page shows of a single run: everything already text."""

    name: str
    folder: str
    facts: list[tuple[str, str]]
    settings: list[tuple[str, list[tuple[str, str]]]]
    notes: list[str]
    command: str | None
    clusters: list[tuple[int, int, list[str]]]


def _details(run: Run, name: str) -> _Details:
    config = dict(run.config)
    command = config.pop("command", None)
    general = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    data = dict(sections.pop("data", {}))
    data.pop("notes", None)
    ordered = {
        "Method": {**general, **sections.pop("method_options", {})},
        "Run": sections.pop("run", {}),
        "Data": data,
        **{key.replace("_", " ").capitalize(): value for key, value in sections.items()},
    }
    return _Details(
        name=name,
        folder=run.path.resolve().name,
        facts=_facts(run),
        settings=[(title, list(_flatten(values))) for title, values in ordered.items() if values],
        notes=[*run.notes, *(str(warning) for warning in run.summary.get("warnings", []))],
        command=shlex.join(map(str, command)) if isinstance(command, list) else command,
        clusters=cluster_examples(run.embeddings) if run.embeddings is not None else [],
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    memory = run.total("peak_rss_bytes")
    device = run.config.get("device") or {}
    named = [str(device[key]) for key in ("count", "platform", "kind") if device.get(key)]
    where = " ".join(dict.fromkeys(named))  # on a CPU, platform and kind are one word
    facts = [
        ("rounds", f"{run.rounds_done} of {run.rounds_planned}"),
        ("best round", f"{run.best_round} (by validation {run.selection})"),
        ("sent by all clients", human_bytes(run.total("uplink_bytes_total"))),
        ("received by all clients", human_bytes(run.total("downlink_bytes_total"))),
        ("sent up to the best round", human_bytes(run.total("uplink_bytes_to_best"))),
        ("received up to the best round", human_bytes(run.total("downlink_bytes_to_best"))),
        ("clients per second", human_count(run.total("clients_per_second"))),
        ("wall time", human_seconds(run.total("wall_seconds"))),
        ("peak memory", human_bytes(memory)),
        ("devices", where or "–"),
    ]
    return [(name, value) for name, value in facts if value != "–"]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", text


def _data_notes(runs: Sequence[Run]) -> list[str]:
    """Each note of each dataset once, in order."""
    several = len({run.dataset for run in runs}) > 1
    notes: dict[str, None] = {}
    for run in runs:
        for note in run.config.get("data", {}).get("notes", []):
            notes[f"{run.dataset}: {note}" if several else str(note)] = None
    return list(notes)
