"""The figure of a sweep: score and seconds a round against the option that was swept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from numbers import Real

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedjax_rec.reports.plots import place_legend
from fedjax_rec.reports.theme import LIGHT, LineStyle, Theme, dress, new_figure, plain
from fedjax_rec.units import human_count

__all__ = ["main_axis", "sweep_figure"]

_TITLES = {"hr@10/uni99": "HR@10 · uni99", "recall@10/full": "Recall@10 · full"}
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1.2)))
_REPEATS = ("seed",)  # runs that differ in nothing else are averaged, not told apart
_MOST_LINES = 12
_SPAN = 10.0  # values that span a decade or more stand on a logarithmic scale


def main_axis(frame: pd.DataFrame, axes: Sequence[str]) -> str | None:
    """The option for the horizontal axis: clients, else the number with most distinct values.

    Args:
      frame: of `results_frame`.
      axes: the options that vary.

    Returns:
      Its column, or None where no number varies.
    """
    varying = [
        name
        for name in axes
        if pd.api.types.is_numeric_dtype(frame[name])
        and not pd.api.types.is_bool_dtype(frame[name])
        and frame[name].nunique() > 1
    ]
    # The seed is a number, but not one that anything is drawn against.
    measures = [name for name in varying if name not in _REPEATS]
    if "clients" in measures:
        return "clients"
    return max(measures, key=lambda name: frame[name].nunique(), default=None)


def sweep_figure(frame: pd.DataFrame, axes: Sequence[str], theme: Theme = LIGHT) -> Figure | None:
    """Test score (left) and seconds a round (right) of the finished trials.

    A line for each combination of the other options; where there are too many of those to tell
    apart, as in a random search, a dot a trial and a colour a method. Runs that differ in their
    seed only are averaged, with a dot each.

    Args:
      frame: of `results_frame`.
      axes: the options that vary.
      theme: colours.

    Returns:
      The figure; None where no number varies or nothing is finished.
    """
    finished = frame[frame["status"] == "finished"]
    x = None if finished.empty else main_axis(finished, axes)
    if x is None:
        return None
    metric = finished["selection"].mode().iloc[0]
    shown = finished[finished["selection"] == metric]
    others = [name for name in axes if name not in (x, *_REPEATS) and shown[name].nunique() > 1]
    groups = _groups(shown, others)
    joined = len(groups) <= _MOST_LINES
    if not joined:
        others = ["method"] if shown["method"].nunique() > 1 else []
        groups = _groups(shown, others)
    figure = new_figure(3.5, theme)
    panels = figure.subplots(1, 2)
    styles = [LineStyle(color, dashes) for dashes, color in product(_DASHES, theme.cycle)]
    columns = ((metric, 100.0, _TITLES[metric]), ("seconds_per_round", 1.0, "Seconds a round"))
    for axes_, (column, scale, title) in zip(panels, columns, strict=True):
        for (_, rows), style in zip(groups, styles, strict=False):
            _draw(axes_, rows[x], scale * rows[column], style, joined=joined)
        dress(axes_, theme, title=title)
        _scales(axes_, shown[x], shown[column], seconds=column == "seconds_per_round")
        axes_.set_xlabel(plain(x))
    panels[0].set_ylabel("test score (%)")
    if others:
        handles = [
            Line2D(
                *([], []),
                color=style.color,
                linestyle=style.dashes,
                marker="o",
                markersize=4,
                label=plain(name, 40),
            )
            for (name, _), style in zip(groups, styles, strict=False)
        ]
        place_legend(figure, handles, theme)
    return figure


def _groups(rows: pd.DataFrame, others: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows by what sets lines apart, with its name, in the order of appearance."""
    if not others:
        return [("", rows)]
    found = []
    for values, group in rows.groupby(list(others), sort=False, dropna=False):
        parts = [
            str(value) if name == "method" else f"{name}={_short(value)}"
            for name, value in zip(others, values, strict=True)
            # An option that is none of the method's has no value there.
            if not (isinstance(value, float) and math.isnan(value)) and value is not None
        ]
        found.append((" ".join(parts), group))
    return found


def _draw(axes: Axes, x: pd.Series, y: pd.Series, style: LineStyle, *, joined: bool) -> None:
    if joined:
        means = y.groupby(x).mean().dropna()
        axes.plot(means.index, means, color=style.color, linestyle=style.dashes, linewidth=1.8)
    axes.plot(x, y, linestyle="", marker="o", markersize=4, color=style.color)


def _scales(axes: Axes, x: pd.Series, y: pd.Series, *, seconds: bool) -> None:
    if _wide(x):
        axes.set_xscale("log")
        distinct = sorted(x.unique())
        if len(distinct) <= 6:  # what was asked for says more than powers of ten
            axes.set_xticks(distinct, [_short(value) for value in distinct], minor=False)
            axes.set_xticks([], minor=True)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if seconds and _wide(y):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)


def _wide(values: pd.Series) -> bool:
    return bool(values.min() > 0 and values.max() >= _SPAN * values.min())


def _short(value: object) -> str:
    if not isinstance(value, Real) or isinstance(value, bool):  # NumPy's numbers are Real too
        return str(value)
    value = float(value)
    return human_count(value) if value == int(value) else f"{value:.3g}"
