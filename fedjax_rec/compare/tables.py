"""Standings as tables: columns of text for the page, rich tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from fedjax_rec.compare.significance import TEST
from fedjax_rec.compare.standings import Standings
from fedjax_rec.reports.tables import Column, ordered_metrics
from fedjax_rec.reports.words import SPLIT_NAMES
from fedjax_rec.units import human_bytes, human_count, human_seconds, percent

__all__ = ["caption", "comparison_tables", "rank_shift", "significance_words", "standings_columns"]

ALPHA = 0.05
_NAMES = {"hr": "HR", "ndcg": "NDCG", "recall": "Recall", "mrr": "MRR"}
# What a terminal of 80 columns has room for.
_MOST_METRICS = 4
_SMALLEST_P = 0.001


def standings_columns(standings: Standings, *, metrics: int | None = None) -> list[Column]:
    """The standings as formatted columns; a line break parts two values of one cell.

    Args:
      standings: of one protocol.
      metrics: the most metrics to show; None: all.

    Returns:
      Label (with the number of seeds, where some are missing), every metric as mean and ± standard
      deviation, bytes sent and received by a client and round, seconds a round and clients a
      second, numbers on the client, and significance.
    """
    frame = standings.frame
    wanted = len(standings.seeds)
    none = (False,) * len(frame)
    names = [
        label if seeds == wanted else f"{label}\n{seeds} of {wanted} seeds"
        for label, seeds in zip(frame["label"], frame["seeds"], strict=True)
    ]
    columns = [Column("method", "", tuple(names), none, numeric=False)]
    split = next(iter(standings.profiles.values())).run.split
    known = [name for name in ordered_metrics(split) if name in frame]
    for name in known[:metrics]:
        kind, _, ranking = name.partition("/")
        metric, _, cutoff = kind.partition("@")
        cells = tuple(map(_score, frame[name], frame[f"{name} std"]))
        shown = frame[name].round(3)
        best = tuple(shown == shown.max()) if shown.nunique() > 1 else none
        columns.append(Column(f"{_NAMES[metric]}@{cutoff}", f"{ranking} %", cells, best))
    sizes = (human_bytes, "uplink_bytes"), (human_bytes, "downlink_bytes")
    speeds = (human_seconds, "seconds_per_round"), (human_count, "clients_per_second")
    counts = (human_count, "client_state_values"), (human_count, "download_values")
    for header, subheader, pair in (
        ("sent\nreceived", "/round", sizes),
        ("time/round\nclients/s", "", speeds),
        ("kept\ndownloaded", "numbers", counts),
    ):
        lines = [map(tell, frame[name]) for tell, name in pair]
        cells = tuple("\n".join(texts) for texts in zip(*lines, strict=True))
        columns.append(Column(header, subheader, cells, none))
    told = tuple(_significance(row) for row in frame.to_dict("records"))
    columns.append(Column("p", "vs best", told, none))
    return columns


def comparison_tables(standings: Sequence[Standings]) -> list[Table]:
    """The comparison for a terminal: a table a protocol, and with two what the leak does to ranks.

    Args:
      standings: of one protocol, or of both.

    Returns:
      Rich tables that fit 80 columns. `caption` says what a reader must know.
    """
    tables = [_standings_table(one) for one in standings]
    shift = rank_shift(standings)
    if shift is not None:
        table = _table("What the leak does to the ranking")
        for column in shift:
            table.add_column(Text(column), justify="left" if column == "method" else "right")
        for row in shift.to_dict("records"):
            table.add_row(*(Text(str(value)) for value in row.values()))
        tables.append(table)
    return tables


def caption(standings: Standings) -> list[str]:
    """What a reader must know to read the table, a sentence or two a line."""
    metric = _title(standings.metric)
    count = len(standings.seeds)
    lines = [
        f"Test scores in % at the round that validation chose, mean ± standard deviation over "
        f"{count} seeds."
        if count > 1
        else "Test scores in % at the round that validation chose; one seed.",
        "Sent, received: bytes of one client. Seconds without compilation and evaluation. Kept: "
        "numbers that the largest client holds from one round to the next, optimizer moments "
        "included; downloaded: numbers in its largest download, labels and indices included.",
        f"p: {TEST}, of the best by {metric} against each of the others, on every user's {metric} "
        f"averaged over seeds. ns: {ALPHA} or more, which may be chance.",
    ]
    if standings.protocol == "published":
        lines.append("published: figures are inflated by the choice of training negatives.")
    return lines


def significance_words(standings: Standings) -> list[str]:
    """The result in a sentence: who leads, and of whom that can be told from chance.

    Args:
      standings: of one protocol.
    """
    frame, metric = standings.frame, standings.metric
    run = next(iter(standings.profiles.values())).run
    setting = f"On {run.dataset} ({SPLIT_NAMES[run.split]}, {standings.protocol})"
    best = frame.iloc[0]
    score = percent(best[metric])
    if len(frame) == 1:
        return [f"{setting}, {best['label']} reaches {_title(metric)} {score}."]
    rest = ", ".join(f"{r['label']} {percent(r[metric])}" for _, r in frame.iloc[1:].iterrows())
    alike = frame.loc[frame["p_holm"] >= ALPHA, "label"].tolist()
    last = (
        f"Not significantly behind it: {', '.join(alike)}."
        if alike
        else f"All others are significantly behind it (p < {ALPHA} after Holm's correction)."
    )
    if frame["p_holm"].isna().sum() > 1:
        last += " Some have no finished seed in common with it and are not tested."
    return [f"{setting}, {best['label']} leads with {_title(metric)} {score}; {rest}.", last]


def rank_shift(standings: Sequence[Standings]) -> pd.DataFrame | None:
    """Every contestant's place under both protocols, and by how many places the leak lifts it.

    Args:
      standings: of the protocols.

    Returns:
      Columns method, the two protocols (score in % and place), and shift: +2 is two places up
      under published. In the order of the leak-free standings; None without both protocols.
    """
    found = {one.protocol: one for one in standings}
    if len(found) < 2:
        return None
    clean, leaky = found["leak-free"], found["published"]
    places = {
        one.protocol: {label: place for place, label in enumerate(one.frame["label"], start=1)}
        for one in (clean, leaky)
    }
    scores = {
        one.protocol: dict(zip(one.frame["label"], one.frame[one.metric], strict=True))
        for one in (clean, leaky)
    }
    rows = []
    for label, place in places[clean.protocol].items():
        if label not in places[leaky.protocol]:
            continue
        row = {"method": label}
        for protocol, name in places.items():
            row[protocol] = f"{percent(scores[protocol][label], sign=False)} (#{name[label]})"
        moved = place - places[leaky.protocol][label]
        row["shift"] = f"{moved:+d}".replace("-", "−") if moved else "="
        rows.append(row)
    return pd.DataFrame(rows, columns=["method", *places, "shift"])


def _standings_table(standings: Standings) -> Table:
    run = next(iter(standings.profiles.values())).run
    setting = (run.dataset, SPLIT_NAMES[run.split], f"{standings.protocol} protocol")
    table = _table(" · ".join(setting))
    columns = standings_columns(standings, metrics=_MOST_METRICS)
    for column in columns:
        lines = [column.header.replace("@", "\n@"), column.subheader.removesuffix(" %")]
        table.add_column(
            Text("\n".join(filter(None, lines))),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric,
        )
    for row in range(len(standings.frame)):
        table.add_row(
            *(
                Text(column.cells[row], style="bold" if column.best[row] else "")
                for column in columns
            )
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )


def _score(mean: float, std: float) -> str:
    if math.isnan(std):
        return percent(mean, sign=False)
    return f"{percent(mean, sign=False)}\n±{percent(std, sign=False)}"


def _significance(row: dict[str, float]) -> str:
    if math.isnan(row["p_holm"]):
        return "best" if row["difference"] == 0.0 else "–"
    value = row["p_holm"]
    text = f"<{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"
    return text if value < ALPHA else f"{text}\nns"


def _title(metric: str) -> str:
    kind, _, ranking = metric.partition("/")
    name, _, cutoff = kind.partition("@")
    return f"{_NAMES[name]}@{cutoff} ({ranking})"
