"""What a sweep leaves at its end: one table of all trials, as data and for the eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from fedjax_rec.errors import InputError
from fedjax_rec.reports.runs import Run, load_run
from fedjax_rec.reports.tables import comparison_frame
from fedjax_rec.sweep.manifest import Entry
from fedjax_rec.sweep.trials import axis_title
from fedjax_rec.units import human_bytes, human_count, human_seconds, percent

__all__ = ["axes_of", "results_frame", "results_table", "write_frame"]

# Of the leave-one-out and of the ratio split; the files have all.
_SCORES = {
    "hr@10/uni99": "HR@10",
    "ndcg@10/uni99": "NDCG@10",
    "recall@10/full": "Recall@10",
}


def axes_of(entries: Sequence[Entry]) -> list[str]:
    """The options that vary over the sweep, in the specification's order, as columns name them."""
    return list(dict.fromkeys(axis_title(name) for e in entries for name in e.trial.axes))


def results_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """All trials, one row each, numbers unrounded.

    Args:
      entries: the trials.

    Returns:
      Columns: trial (its folder's name), status, error, method, one for each option that varies
      (missing where it is no option of the trial's method), and for finished trials num_clients,
      those of `comparison_frame`, selection and validation (the metric that chose the round, and
      its value there), seconds_per_round (mean, without compilation, evaluation and checkpoints),
      compile_seconds and peak_rss_bytes.
    """
    axes = axes_of(entries)
    rows = []
    for entry in entries:
        given = {axis_title(name): value for name, value in entry.trial.axes.items()}
        rows.append(
            {
                "trial": entry.folder.name,
                "status": entry.status,
                "error": entry.error,
                "method": entry.trial.method,
                **{axis: given.get(axis) for axis in axes if axis != "method"},
            }
        )
    frame = pd.DataFrame(rows)
    for axis in axes:
        frame[axis] = _storable(frame[axis])
    finished = [index for index, entry in enumerate(entries) if entry.status == "finished"]
    # Without the embeddings: those of all trials together may not fit the memory.
    runs = [replace(load_run(entries[index].folder), embeddings=None) for index in finished]
    if not runs:
        return frame
    compared = comparison_frame(runs).drop(columns=["finished"]).set_axis(finished)
    own = pd.DataFrame([_own_figures(run) for run in runs], index=finished)
    for column, values in pd.concat([own, compared], axis=1).items():
        if column not in frame:
            frame[column] = values.reindex(frame.index)
    return frame


def results_table(frame: pd.DataFrame, axes: Sequence[str]) -> Table:
    """The trials for a terminal: what varies, test scores in %, seconds and bytes.

    Args:
      frame: of `results_frame`.
      axes: of `axes_of`.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, caption_justify="left")
    names = [*(["method"] if "method" not in axes else []), *axes]
    names += ["status"] if (frame["status"] != "finished").any() else []
    for name in names:
        table.add_column(Text(name), overflow="fold")
    scores = [name for name in _SCORES if name in frame]
    for name in ("best\nround", *(f"{_SCORES[n]}\n{n.partition('/')[2]} %" for n in scores)):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("seconds\n/round", "sent\n/round", "clients\n/s"):
        table.add_column(name, justify="right", no_wrap=True)
    best = {name: frame[name].max() for name in scores if frame[name].nunique() > 1}
    for row in frame.to_dict("records"):
        cells = [Text(_cell(row[name])) for name in names]
        rounds = f"{row['best_round']:.0f}/{row['rounds']:.0f}" if _done(row) else "–"
        cells.append(Text(rounds))
        for name in scores:
            style = "bold" if row[name] == best.get(name) else ""
            cells.append(Text(percent(row[name], sign=False), style=style))
        cells += [
            Text(human_seconds(row.get("seconds_per_round"))),
            Text(human_bytes(row.get("uplink_bytes"))),
            Text(human_count(row.get("clients_per_second"))),
        ]
        table.add_row(*cells)
    table.caption = Text(
        "Test scores at the round that validation chose; seconds without compilation and "
        "evaluation; sent: bytes of one client."
    )
    return table


def write_frame(frame: pd.DataFrame, out: Path) -> list[Path]:
    """Writes ``results.csv`` and ``results.parquet``, each as a whole.

    Args:
      frame: of `results_frame`.
      out: the sweep's folder.

    Returns:
      The files.

    Raises:
      InputError: they cannot be written.
    """
    files = [out / "results.csv", out / "results.parquet"]
    try:
        for file, write in zip(files, (frame.to_csv, frame.to_parquet), strict=True):
            temporary = file.with_name(f".{file.name}.tmp")
            write(temporary, index=False)
            temporary.replace(file)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; free some space") from error
    return files


def _own_figures(run: Run) -> dict[str, object]:
    summary = run.summary
    seconds = summary["device_seconds"] + summary["host_seconds"]
    return {
        "num_clients": run.config["data"]["clients"],
        "selection": run.selection,
        "validation": summary["validation"].get(run.selection),
        "seconds_per_round": seconds / summary["rounds"],
        "compile_seconds": summary["compile_seconds"],
        "peak_rss_bytes": summary["peak_rss_bytes"],
    }


def _storable(values: pd.Series) -> pd.Series:
    """A column of one type: text, where an option takes numbers and words (``chunk``)."""
    known = values.dropna()
    kinds = {type(value) for value in known}
    if (len(kinds) < 2 and tuple not in kinds) or kinds == {int, float}:
        return values.infer_objects()
    return values.map(_cell, na_action="ignore")


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))  # a column of whole numbers with gaps
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _done(row: dict[str, object]) -> bool:
    return row["status"] == "finished"
