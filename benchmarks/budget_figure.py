"""The figure of the similarity budget: bytes against the threshold, one panel a catalogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedjax_rec.errors import InputError
from fedjax_rec.reports.theme import LIGHT, dress, new_figure
from fedjax_rec.units import human_bytes

__all__ = ["draw"]

_COLUMNS = 3
# Column of the rows, name, place in the theme's cycle, dashes.
_LINES = (
    ("up B, 32 bit", "upload, float32", 0, "-"),
    ("up B, 4 bit", "upload, 4 bits", 5, "-"),
    ("M_g B", "M_g down, float32", 1, "--"),
)
_LEVELS = (
    ("id B", "id-indexed", 2, ":"),
    ("codebook B", "codebook", 3, ":"),
    ("labels B", "labels only", 6, ":"),
)


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Bytes per client and round on a logarithmic scale that all panels share.

    Args:
      rows: of `similarity_budget`, those that count one training at several thresholds. An upload
        without any pair, of 0 bytes, stands at the bottom.

    Raises:
      InputError: no rows.
    """
    if not rows:
        raise InputError("no catalogue was measured: there is nothing to draw")
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        what = f"{row['by']}\n{row['rounds']} rounds\ninit std {row['init std']:g}"
        panels.setdefault((row["catalogue"], what), []).append(row)
    columns = min(_COLUMNS, len(panels))
    height = math.ceil(len(panels) / columns)
    figure = new_figure(0.7 + 2.3 * height, LIGHT)
    grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, ((catalogue, what), lines) in zip(grid, panels.items(), strict=False):
        _panel(axes, catalogue, what, lines)
    # One scale for all panels: they share it, so it is set once they are drawn.
    grid[0].set_ylim(0.7, 3 * max(row[column] for row in rows for column, *_ in _LINES + _LEVELS))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("threshold σ")
        axes.xaxis.set_tick_params(labelbottom=True)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=9.5,
        labelcolor=LIGHT.ink,
    )
    return figure


def _panel(axes: Axes, catalogue: str, what: str, rows: list[dict[str, Any]]) -> None:
    items = rows[0]["items"]
    title = f"{catalogue.removesuffix(f'-{items}')}, {items:,} items"
    dress(axes, LIGHT)
    axes.set_title(title, loc="left", fontsize=9.5, color=LIGHT.ink, fontweight="bold")
    axes.annotate(
        what,
        (0.03, 0.04),
        xycoords="axes fraction",
        ha="left",
        va="bottom",
        fontsize=8,
        color=LIGHT.muted,
    )
    for column, label, color, style in _LEVELS:
        axes.axhline(rows[0][column], color=LIGHT.cycle[color], linestyle=style, label=label)
    for column, label, color, style in _LINES:
        sizes = [max(1, row[column]) for row in rows]
        axes.plot(
            [row["σ"] for row in rows],
            sizes,
            color=LIGHT.cycle[color],
            linestyle=style,
            marker="o",
            markersize=2.5,
            label=label,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=1000, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: human_bytes(value).replace(".0 ", " "))
    )
