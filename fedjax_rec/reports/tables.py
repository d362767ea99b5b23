"""Runs side by side: for the terminal (rich), for the HTML report, for pandas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from fedjax_rec.reports.runs import Run, display_names
from fedjax_rec.reports.words import CHANCE, SPLIT_NAMES, comparison_key
from fedjax_rec.units import human_bytes, human_count, percent

__all__ = [
    "comparison_table",
    "comparison_frame",
    "comparison_cells",
    "comparison_footnotes",
    "ordered_metrics",
    "Column",
]

_METRIC_ORDER = (
    "hr@10/uni99",
    "ndcg@10/uni99",
    "recall@10/full",
    "hr@10/full",
    "ndcg@10/full",
    "mrr@10/full",
    "ndcg@10/full-published",
    "mrr@10/full-published",
)
# Follow from recall and the number of held-out items: in the frame, not in tables for the eye.
_DERIVED = ("precision@10/full", "f1@10/full")
_NAMES = {"hr": "HR", "ndcg": "NDCG", "recall": "Recall", "mrr": "MRR"}
_TRAFFIC = ("uplink", "downlink")


@dataclass(frozen=True)
class Column:
    """One column of the comparison: a text for each run, and which of them are best.

    Attributes:
      header: its first line.
      subheader: its second line ("" for none).
      cells: one text a run.
      best: one flag a run; runs are judged only against runs of the same dataset, split and
        protocol, and nothing is best where there is nothing to compare with.
      numeric: whether the cells align to the right.
    """

    header: str
    subheader: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    numeric: bool = True


def comparison_table(runs: Sequence[Run]) -> Table:
    """The comparison for a terminal: test scores in % at the round that validation chose.

    Args:
      runs: one or more runs; a dataset, split or protocol that all share goes into the title.

    Returns:
      A rich table with the best of each column bold and the chance level in the footnote.

    Example:
      rich.print(comparison_table([load_run("runs/cgfedrec"), load_run("runs/local")]))
    """
    table = Table(
        title=Text(" · ".join(_shared_setting(runs))),
        caption=Text("\n".join(comparison_footnotes(runs))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    columns = comparison_cells(runs)
    for column in columns:
        # Short lines instead of two long ones: six metrics must fit 80 columns.
        ranking = column.subheader.removesuffix(" %").replace("-", "-\n")
        lines = [column.header.replace("@", "\n@"), ranking]
        table.add_column(
            # Text, not str: a label like "[red]" is a label, not markup.
            Text("\n".join(filter(None, lines))),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric,
        )
    for row in range(len(runs)):
        table.add_row(
            *(
                Text(column.cells[row], style="bold" if column.best[row] else "")
                for column in columns
            )
        )
    return table


def comparison_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The comparison as data: one row a run, numbers unrounded.

    Args:
      runs: one or more runs.

    Returns:
      Indexed by ``run`` (the label). Columns: method, dataset, split, protocol, evaluate_at,
      finished, rounds, best_round, one for each metric that some run has (named as in
      ``metrics.jsonl``, test scores at the best round, as fractions), uplink_bytes and
      downlink_bytes (per participating client and round), uplink_bytes_total and
      downlink_bytes_total (all clients, all rounds), clients_per_second, wall_seconds.
    """
    rows = []
    for run in runs:
        row: dict[str, object] = {
            "method": run.method,
            "dataset": run.dataset,
            "split": run.split,
            "protocol": run.protocol,
            "evaluate_at": run.evaluate_at,
            "finished": run.finished,
            "rounds": run.rounds_done,
            "best_round": run.best_round,
        }
        metrics = _metrics(runs, (*_METRIC_ORDER, *_DERIVED))
        row |= {metric: run.test.get(metric, math.nan) for metric in metrics}
        row |= {f"{way}_bytes": _number(run.per_client_bytes(way)) for way in _TRAFFIC}
        row |= {f"{way}_bytes_total": _number(run.total(f"{way}_bytes_total")) for way in _TRAFFIC}
        row |= {key: _number(run.total(key)) for key in ("clients_per_second", "wall_seconds")}
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(display_names(runs), name="run"))


def comparison_cells(runs: Sequence[Run]) -> list[Column]:
    """The comparison as formatted columns, shared by the terminal and the HTML table.

    Args:
      runs: one or more runs.

    Returns:
      Method, what the runs do not share (dataset, split, protocol), best round, every metric that
      applies, bytes per participating client and round in each direction, clients per second.
    """
    none = (False,) * len(runs)
    names = [
        name if run.finished else f"{name} (unfinished)"
        for name, run in zip(display_names(runs), runs, strict=True)
    ]
    columns = [Column("method", "", tuple(names), none, numeric=False)]
    for header, values in (
        ("data", [run.dataset for run in runs]),
        ("split", [SPLIT_NAMES[run.split] for run in runs]),
        ("protocol", [run.protocol for run in runs]),
    ):
        if len(set(values)) > 1:
            columns.append(Column(header, "", tuple(values), none, numeric=False))
    rounds = tuple(f"{run.best_round}/{run.rounds_done}" for run in runs)
    columns.append(Column("best", "round", rounds, none))
    for metric in _metrics(runs, _METRIC_ORDER):
        values_at_best = [run.test.get(metric) for run in runs]
        shown = [None if value is None else round(value, 3) for value in values_at_best]
        name, _, ranking = metric.partition("/")
        kind, _, cutoff = name.partition("@")
        columns.append(
            Column(
                f"{_NAMES[kind]}@{cutoff}",
                f"{ranking} %",
                tuple(percent(value, sign=False) for value in values_at_best),
                _best(runs, shown, largest=True),
            )
        )
    for direction, header in zip(_TRAFFIC, ("sent", "received"), strict=True):
        sizes = [run.per_client_bytes(direction) for run in runs]
        # A method that sends nothing is no contestant for sending least.
        contestants = [size or None for size in sizes]
        columns.append(
            Column(
                header,
                "/round",
                tuple(human_bytes(size) for size in sizes),
                _best(runs, contestants, largest=False),
            )
        )
    speeds = [run.total("clients_per_second") for run in runs]
    columns.append(
        Column(
            "clients",
            "/s",
            tuple(human_count(speed) for speed in speeds),
            _best(runs, speeds, largest=True),
        )
    )
    return columns


def ordered_metrics(split: str) -> list[str]:
    """The metrics for the eye under a split, "loo" or "ratio", in the order of tables."""
    return _applying(split, _METRIC_ORDER)


def comparison_footnotes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know to read the comparison, one sentence or two a line."""
    lines = [
        "Test scores in % at the round that validation chose; "
        "sent and received: bytes of one client."
    ]
    if any("hr@10/uni99" in run.test for run in runs):
        lines.append(
            "uni99: the held-out item among 99 others; chance is "
            f"{percent(CHANCE['hr@10/uni99'], sign=False)} HR@10 and "
            f"{percent(CHANCE['ndcg@10/uni99'], sign=False)} NDCG@10."
        )
    if any(metric.endswith("-published") for run in runs for metric in run.test):
        lines.append(
            "full-published: ranked in the order of a Python set, as FedCIA's release does; only "
            "for comparison with the tables of FedCIA and RQFedRec."
        )
    if len({comparison_key(run) for run in runs}) > 1:
        lines.append("Best (bold) is the best of its dataset, split and protocol.")
    if any(run.protocol == "published" for run in runs):
        lines.append("published: figures are inflated by the choice of training negatives.")
    return lines


def _metrics(runs: Sequence[Run], order: Sequence[str]) -> list[str]:
    """The metrics that some run has: recall and its like say more than HR only with several
    held-out items."""
    wanted = _applying("ratio" if any(run.split == "ratio" for run in runs) else "loo", order)
    return [metric for metric in wanted if any(metric in run.test for run in runs)]


def _applying(split: str, order: Sequence[str]) -> list[str]:
    return [m for m in order if split == "ratio" or m.startswith(("hr", "ndcg"))]


def _best(
    runs: Sequence[Run], values: Sequence[float | None], *, largest: bool
) -> tuple[bool, ...]:
    best = [False] * len(runs)
    order = sorted(range(len(runs)), key=lambda index: comparison_key(runs[index]))
    for _, group in groupby(order, key=lambda index: comparison_key(runs[index])):
        known = {index: value for index in group if (value := values[index]) is not None}
        if len(set(known.values())) > 1:
            target = (max if largest else min)(known.values())
            for index, value in known.items():
                best[index] = value == target
    return tuple(best)


def _shared_setting(runs: Sequence[Run]) -> list[str]:
    settings = (
        {run.dataset for run in runs},
        {SPLIT_NAMES[run.split] for run in runs},
        {f"{run.protocol} protocol" for run in runs},
    )
    return [next(iter(values)) for values in settings if len(values) == 1]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
