"""What the robustness studies share: a method trained at several levels of noise, and the figure.

A study is lines of methods over levels of one kind of noise, from 0 on; the run without noise is
what each line is measured against. Methods have the settings of `ratio_settings.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ratio_settings
from harness import Options, Table, dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ratio_runs import RatioOptions, check, train_seeds
from staged import over_seeds

from fedjax_rec.data import Problem, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.reports.theme import LIGHT, dress, new_figure

__all__ = [
    "FEDERATION",
    "LABELS",
    "Line",
    "RobustnessOptions",
    "check_levels",
    "draw",
    "federation",
    "save_figure",
    "study",
]

FEDERATION = "ml-100k-ratio"
LABELS = {"fedmf": "FedMF", "rqfedrec": "RQFedRec", "popularity": "popularity"}

_COLORS = {"FedMF": LIGHT.cycle[2], "RQFedRec": LIGHT.cycle[0], "popularity": LIGHT.muted}
_DASHES = {"popularity": "--"}
_COLUMNS = ("best", "rounds", "val Recall", "Recall@10", "NDCG@10", "NDCG*@10")


@dataclass(frozen=True)
class RobustnessOptions(RatioOptions):
    """Options of every robustness study, beside those of all scripts on the ratio split: a run
    without noise is taken over where one of them has trained it with the same settings."""

    seeds: tuple[int, ...] = (0, 1, 2)
    dim: int = 64


@dataclass(frozen=True)
class Line:
    """One method over all levels of a study.

    Attributes:
      label: its name in the table and the figure.
      method: which of `ratio_settings.METHODS`.
      options: level -> options of the method beside its settings.
      noisy: whether the noise reaches it at all; if not, it is trained once.
    """

    label: str
    method: str
    options: Callable[[float], dict[str, Any]] = lambda level: {}
    noisy: bool = True


def federation(options: Options, seed: int) -> Problem:
    """ML-100K's ratio split over 100 silos; with --toy a synthetic dataset over 10."""
    clients = 10 if options.toy else None
    return make_problem(dataset(FEDERATION, options), split="ratio", clients=clients, seed=seed)


def check_levels(option: str, levels: Sequence[float]) -> None:
    """Refuses levels of noise that are not ascending numbers above 0.

    Raises:
      InputError: they are not.
    """
    rising = list(levels) == sorted(set(levels))
    if not levels or not rising or not all(0 < level < float("inf") for level in levels):
        raise InputError(
            f"{option} {_listed(levels)}: give at least one, above 0, ascending (0 comes by itself)"
        )


def study(
    table: Table,
    options: RobustnessOptions,
    column: str,
    levels: Sequence[float],
    lines: Sequence[Line],
    problem: Callable[[float, int], Problem],
) -> None:
    """Trains every line without noise and at every level; adds one row each.

    Args:
      table: takes the rows.
      options: seeds, rounds, folder; checked here.
      column: what the levels are called in the table.
      levels: ascending, above 0.
      lines: what to train.
      problem: (level, seed) -> what to train on.

    Raises:
      InputError: options that cannot be met.
    """
    check(options)
    for line in lines:
        clean: list[dict[str, Any]] = []
        for level in (0.0, *levels) if line.noisy else (0.0,):
            runs = _train(line, level, problem, options)
            clean = clean or runs
            row = {"method": line.label, column: level, **over_seeds(runs)}
            table.add(**row, **_lost(runs, clean, "Recall"), **_lost(runs, clean, "NDCG"))


def draw(rows: Sequence[dict[str, Any]], column: str, xlabel: str) -> Figure:
    """Recall against the level of noise: as it is, and as a share of the run without noise.

    Args:
      rows: of `study`.
      column: of the levels.
      xlabel: what the levels are, in words.

    Raises:
      InputError: no rows.
    """
    if not rows:
        raise InputError("nothing was trained: there is nothing to draw")
    figure = new_figure(3.4, LIGHT)
    recall, share = figure.subplots(1, 2)
    for axes, title in ((recall, "Recall@10, %"), (share, "Recall@10 kept, % of no noise")):
        dress(axes, LIGHT, title=title)
        axes.set_xlabel(xlabel)
    for label in dict.fromkeys(row["method"] for row in rows):
        line = [row for row in rows if row["method"] == label]
        if len(line) == 1:  # nothing that the noise reaches
            recall.axhline(line[0]["Recall@10"], label=label, **_style(label))
            continue
        _draw_line(recall, label, column, line, lambda row: row["Recall@10"], "± Recall@10")
        kept = [row for row in line if row["Recall lost %"] is not None]
        _draw_line(
            share, label, column, kept, lambda r: 100 - r["Recall lost %"], "± Recall lost %"
        )
    for axes in (recall, share):
        axes.set_xticks(sorted({row[column] for row in rows}))
        axes.tick_params(axis="x", labelsize=8.5)
    recall.set_ylim(bottom=0)
    handles, names = recall.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper left", ncols=4, frameon=False, labelcolor=LIGHT.ink
    )
    return figure


def save_figure(table: Table, picture: Callable[[], Figure]) -> None:
    """Writes a study's figure beside its JSON; draws nothing where no results are kept (--toy)."""
    path = table.save()
    if path is not None:
        picture().savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})


def _train(
    line: Line, level: float, problem: Callable[[float, int], Problem], options: RobustnessOptions
) -> list[dict[str, Any]]:
    """What the table shows of each seed's run."""
    noise = line.options(level)
    data = dataset(FEDERATION, options)
    method = ratio_settings.build(
        line.method, FEDERATION, data, dim=options.dim, toy=options.toy, **noise
    )
    found = train_seeds(
        method,
        f"{line.method}-{FEDERATION}",
        options,
        lambda seed: problem(level, seed),
        label=f"{line.method} noise={level:g}" if level else line.method,
    )
    return [{name: run[name] for name in _COLUMNS} for run in found]


def _lost(
    runs: Sequence[dict[str, Any]], clean: Sequence[dict[str, Any]], metric: str
) -> dict[str, float | None]:
    """Percent of a metric lost against the same seed without noise: mean, and deviation over seeds.

    None where there was nothing to lose.
    """
    name = f"{metric}@10"
    if not all(base[name] for base in clean):
        return {f"{metric} lost %": None, f"± {metric} lost %": None}
    lost = [100 * (1 - run[name] / base[name]) for run, base in zip(runs, clean, strict=True)]
    return {
        f"{metric} lost %": statistics.fmean(lost),
        f"± {metric} lost %": statistics.stdev(lost) if len(lost) > 1 else None,
    }


def _draw_line(
    axes: Axes,
    label: str,
    column: str,
    rows: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float],
    spread: str,
) -> None:
    """A line over the levels, with bars of one standard deviation where there are several seeds."""
    axes.errorbar(
        [row[column] for row in rows],
        [value(row) for row in rows],
        yerr=[row[spread] or 0.0 for row in rows],
        marker="o",
        markersize=3.5,
        capsize=2.5,
        label=label,
        **_style(label),
    )


def _style(label: str) -> dict[str, Any]:
    return {"color": _COLORS.get(label, LIGHT.cycle[3]), "linestyle": _DASHES.get(label, "-")}


def _listed(values: Sequence[float]) -> str:
    return " ".join(map(str, values)) or "(none)"
