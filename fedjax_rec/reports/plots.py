"""Figures that compare runs: scores over rounds and bytes, item communities, wall time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fedjax_rec.reports.runs import Run, display_names
from fedjax_rec.reports.theme import (
    LIGHT,
    LineStyle,
    Theme,
    dress,
    line_styles,
    new_figure,
    plain,
)
from fedjax_rec.reports.words import CHANCE
from fedjax_rec.units import human_bytes, human_seconds

__all__ = [
    "Ranking",
    "panel_metrics",
    "scores_over_rounds",
    "scores_over_bytes",
    "wall_time",
    "community_panels",
    "communities_over_rounds",
    "place_legend",
]

Ranking = Literal["uni99", "full"]
_TITLES = {"hr@10": "HR@10", "ndcg@10": "NDCG@10", "recall@10": "Recall@10"}
_COMMUNITY_TITLES = {
    "communities": "Communities",
    "modularity": "Modularity",
    "nmi": "NMI with the truth",
}
_TIME_PARTS = (
    ("compile", "compile_seconds"),
    ("device", "device_seconds"),
    ("host", "host_seconds"),
    ("evaluation", "eval_seconds"),
)


def panel_metrics(runs: Sequence[Run], ranking: Ranking) -> list[str]:
    """The one or two metrics that the score figures show, empty where no run has them.

    Args:
      runs: the runs of the report.
      ranking: which set of candidates.
    """
    ratio_only = all(run.split == "ratio" for run in runs)
    first = "recall@10" if ratio_only and ranking == "full" else "hr@10"
    wanted = [f"{first}/{ranking}", f"ndcg@10/{ranking}"]
    return [m for m in wanted if any(_has(run, m) for run in runs)]


def scores_over_rounds(
    runs: Sequence[Run], ranking: Ranking = "uni99", theme: Theme = LIGHT
) -> Figure:
    """Test scores over rounds, one panel a metric; a dot marks the round validation chose.

    A run evaluated only once (a control without rounds) is a horizontal line.

    Args:
      runs: at least one run that has the ranking's metrics.
      ranking: which set of candidates.
      theme: colours.
    """
    metrics = panel_metrics(runs, ranking)
    figure = new_figure(3.5, theme)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for run, style in zip(runs, line_styles(runs, theme), strict=True):
            if _has(run, metric):
                rows = run.test_rows
                _draw(axes, rows["round"], 100 * rows[metric], run.best_round, rows, style, theme)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _score_axis(axes, runs, metric, theme)
    _legend(figure, [run for run in runs if any(_has(run, m) for m in metrics)], runs, theme)
    return figure


def scores_over_bytes(
    runs: Sequence[Run], ranking: Ranking = "uni99", theme: Theme = LIGHT
) -> Figure:
    """Test scores over the bytes that all clients have sent (left) and received (right) so far.

    The axes are logarithmic and shared, so a method that sends labels stands decades left of one
    that sends embeddings. A method that moves nothing in a direction has no place on them: its
    score at the chosen round is a dashed line across.

    Args:
      runs: at least one run that has the ranking's metrics and traffic.
      ranking: which set of candidates.
      theme: colours.
    """
    metrics = panel_metrics(runs, ranking)
    figure = new_figure(0.9 + 2.5 * len(metrics), theme)
    grid = figure.subplots(len(metrics), 2, sharex=True, sharey="row", squeeze=False)
    spans: list[float] = []
    names, styles = display_names(runs), line_styles(runs, theme)
    for row, metric in zip(grid, metrics, strict=True):
        for axes, way in zip(row, ("uplink", "downlink"), strict=True):
            for run, name, style in zip(runs, names, styles, strict=True):
                if not _has(run, metric):
                    continue
                rows = run.test_rows
                sent = rows.get(f"{way}_bytes_total", pd.Series(0.0, rows.index)).fillna(0.0)
                moving = rows[sent > 0]
                if moving.empty:
                    _reference_line(axes, 100 * run.test.get(metric, math.nan), name, style)
                    continue
                sent = sent[sent > 0]
                spans += [float(sent.min()), float(sent.max())]
                _draw(axes, sent, 100 * moving[metric], run.best_round, moving, style, theme)
            _score_axis(axes, runs, metric, theme, title_suffix=f" · {way}")
    if spans:
        _byte_axis(grid[0][0], min(spans), max(spans))
    for axes, way in zip(grid[-1], ("sent", "received"), strict=True):
        axes.set_xlabel(f"bytes {way} by all clients so far")
    for axes in grid[:, 1]:
        axes.set_ylabel("")
    _legend(figure, [run for run in runs if any(_has(run, m) for m in metrics)], runs, theme)
    return figure


def wall_time(runs: Sequence[Run], theme: Theme = LIGHT) -> Figure:
    """Where the wall time went: compiling, device, host, evaluation, and what is left over.

    Args:
      runs: at least one run.
      theme: colours.
    """
    parts = [name for name, _ in _TIME_PARTS] + ["other"]
    colors = [*(theme.cycle[slot] for slot in (4, 0, 1, 2)), theme.muted]
    figure = new_figure(1.25 + 0.42 * len(runs), theme)
    absolute, relative = figure.subplots(1, 2, sharey=True)
    totals = []
    for position, run in enumerate(runs):
        seconds = _time_parts(run)
        total = sum(seconds)
        totals.append(total)
        left = 0.0
        for value, color in zip(seconds, colors, strict=True):
            absolute.barh(position, value, left=left, height=0.62, color=color)
            share = 100 / total if total else 0.0
            relative.barh(position, value * share, left=left * share, height=0.62, color=color)
            left += value
        absolute.annotate(
            human_seconds(total),
            (total, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=theme.ink,
        )
    absolute.set_xlim(0, (max(totals) or 1.0) * 1.35)
    absolute.xaxis.set_major_locator(MaxNLocator(nbins=4))
    absolute.set_yticks(range(len(runs)), [plain(name, 26) for name in display_names(runs)])
    absolute.invert_yaxis()
    absolute.set_xlabel("seconds")
    relative.set_xlim(0, 100)
    relative.set_xlabel("share (%)")
    for axes, title in ((absolute, "Wall time"), (relative, "Its parts")):
        dress(axes, theme, title=title)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    handles = [Patch(color=color, label=part) for part, color in zip(parts, colors, strict=True)]
    place_legend(figure, handles, theme)
    return figure


def community_panels(runs: Sequence[Run]) -> list[str]:
    """The columns that the figure of the communities shows, empty where no run has any.

    Args:
      runs: the runs of the report.
    """
    return [name for name in _COMMUNITY_TITLES if any(_groups_items(run, name) for run in runs)]


def communities_over_rounds(runs: Sequence[Run], theme: Theme = LIGHT) -> Figure:
    """The server's item communities over rounds: their number, modularity, and NMI if known.

    One panel a column of ``community_panels``. The values come from the validation rows (those of
    the test split are the same); a dot marks the round validation chose. A line has a gap where a
    round has no value, such as the modularity of a graph without edges.

    Args:
      runs: at least one run that has communities; the others keep their colours and stay out.
      theme: colours.
    """
    names = community_panels(runs)
    figure = new_figure(3.2, theme)
    panels = figure.subplots(1, len(names), sharex=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        drawn = []
        for run, style in zip(runs, line_styles(runs, theme), strict=True):
            if _groups_items(run, name):
                rows = run.validation_rows
                values = rows[name].astype(float)
                drawn.append(values)
                _curve(axes, rows["round"], values, run.best_round, rows, style, theme)
                _mark_lonely(axes, rows["round"], values, style)
        dress(axes, theme, title=_COMMUNITY_TITLES[name])
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
        whole = name == "communities"
        axes.yaxis.set_major_locator(MaxNLocator(integer=whole, nbins=6, steps=[1, 2, 5, 10]))
        _from_zero(axes, pd.concat(drawn))
    shown = [run for run in runs if any(_groups_items(run, name) for name in names)]
    _legend(figure, shown, runs, theme)
    return figure


def _has(run: Run, metric: str) -> bool:
    return metric in run.history and bool(run.test_rows[metric].notna().any())


def _groups_items(run: Run, name: str) -> bool:
    return name in run.history and bool(run.validation_rows[name].notna().any())


def _draw(
    axes: Axes,
    x: pd.Series,
    y: pd.Series,
    best_round: int,
    rows: pd.DataFrame,
    style: LineStyle,
    theme: Theme,
) -> None:
    if len(x) == 1:
        axes.axhline(float(y.iloc[0]), color=style.color, linestyle=style.dashes, linewidth=1.8)
        return
    _curve(axes, x, y, best_round, rows, style, theme)


def _curve(
    axes: Axes,
    x: pd.Series,
    y: pd.Series,
    best_round: int,
    rows: pd.DataFrame,
    style: LineStyle,
    theme: Theme,
) -> None:
    """A line, and a dot at the best round."""
    axes.plot(x, y, color=style.color, linestyle=style.dashes, linewidth=1.8)
    chosen = (rows["round"] == best_round).to_numpy()
    axes.plot(
        x[chosen],
        y[chosen],
        linestyle="",
        marker="o",
        markersize=6.5,
        color=style.color,
        markeredgecolor=theme.background,
        markeredgewidth=1.2,
        zorder=5,
    )


def _mark_lonely(axes: Axes, x: pd.Series, y: pd.Series, style: LineStyle) -> None:
    """Dots where both neighbours are missing: no line reaches these."""
    lonely = y.notna() & y.shift(1).isna() & y.shift(-1).isna()
    axes.plot(x[lonely], y[lonely], linestyle="", marker=".", markersize=5, color=style.color)


def _from_zero(axes: Axes, values: pd.Series) -> None:
    """A scale that holds zero, so that heights compare; modularity may lie below it."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    margin = 0.08 * ((high - low) or 1.0)
    axes.set_ylim(low - margin if low < 0 else 0.0, high + margin)


def _reference_line(axes: Axes, score: float, name: str, style: LineStyle) -> None:
    """A score without a place on the byte axis, named where it stands."""
    axes.axhline(score, color=style.color, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.annotate(
        plain(name, 24),
        (0, score),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=8.5,
        color=style.color,
    )


def _score_axis(
    axes: Axes, runs: Sequence[Run], metric: str, theme: Theme, *, title_suffix: str = ""
) -> None:
    name, _, ranking = metric.partition("/")
    dress(axes, theme, title=f"{_TITLES[name]} · {ranking}{title_suffix}")
    axes.set_ylabel("test score (%)")
    values = pd.concat([100 * run.test_rows[metric] for run in runs if _has(run, metric)])
    # From zero, so that heights compare; but not where everything sits near the top.
    if values.min() < 50:
        axes.set_ylim(0, max(1e-9, 1.08 * values.max()))
    if metric in CHANCE and values.min() < 50:
        level = 100 * CHANCE[metric]
        axes.axhline(level, color=theme.muted, linewidth=1.0, linestyle=":", zorder=1)
        axes.annotate(
            "chance",
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8.5,
            color=theme.muted,
        )


def _byte_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    # A single point still needs a span.
    axes.set_xlim(low / 1.6, high * 1.6)
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 1.6 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: human_bytes(value).replace(".0 ", " "))
    )


def _legend(figure: Figure, shown: Sequence[Run], runs: Sequence[Run], theme: Theme) -> None:
    entries = zip(runs, display_names(runs), line_styles(runs, theme), strict=True)
    handles = [
        Line2D([], [], color=style.color, linestyle=style.dashes, linewidth=2.2, label=plain(name))
        for run, name, style in entries
        if run in shown
    ]
    place_legend(figure, handles, theme)


def place_legend(figure: Figure, handles: Sequence[Line2D] | Sequence[Patch], theme: Theme) -> None:
    """The key of a figure above its panels, in as many columns as its names leave room for."""
    names = [str(handle.get_label()) for handle in handles]
    # About 88 characters fit the width, of which each key and its gaps take 8.
    widths = [len(name) + 8 for name in names]
    columns = len(names) if sum(widths) <= 88 else max(1, 88 // max(widths))
    legend = figure.legend(
        handles=list(handles),
        # A name that begins with "_" would be left out; the real ones are set below.
        labels=[str(position) for position in range(len(names))],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=10,
        labelcolor=theme.ink,
        handlelength=2.2,
        columnspacing=1.6,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _time_parts(run: Run) -> list[float]:
    """Seconds per part, in the order of ``_TIME_PARTS``, then what they leave of the wall time."""
    seconds = [run.total(key) or 0.0 for _, key in _TIME_PARTS]
    return [*seconds, max(0.0, (run.total("wall_seconds") or 0.0) - sum(seconds))]
