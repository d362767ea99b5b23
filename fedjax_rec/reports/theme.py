"""Colours, line styles and axes that all figures share, in a light and a dark version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_rec.reports.runs import Run

__all__ = ["Theme", "LIGHT", "DARK", "LineStyle", "line_styles", "new_figure", "dress", "plain"]

#: matplotlib's (offset, lengths of strokes and gaps); no lengths is a solid line.
Dashes: TypeAlias = tuple[float, tuple[float, ...]]

#: Inches; figures are shown at up to 700 CSS pixels, so 1 inch is 100 of them.
FIGURE_WIDTH = 7.0

# Methods seen in most comparisons keep their colour from report to report.
_FIXED_SLOTS = {"cgfedrec": 0, "pfedrec": 1, "fedmf": 2}
_CONTROLS = ("local", "popularity")
_LINE_STYLES: tuple[Dashes, ...] = (
    (0, ()),
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (5, 1.5, 1.5, 1.5)),
)


@dataclass(frozen=True)
class Theme:
    """The colours of a figure, as hex strings.

    ``cycle`` is the Okabe–Ito palette (safe for the common colour-vision deficiencies), in the
    dark theme lightened for contrast, in the same order.
    """

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    cycle: tuple[str, ...]
    sequential: str


LIGHT = Theme(
    name="light",
    background="#ffffff",
    ink="#1c2430",
    muted="#6b7684",
    grid="#e3e7ec",
    cycle=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F"),
    sequential="cividis_r",
)
DARK = Theme(
    name="dark",
    background="#171c24",
    ink="#e6eaf0",
    muted="#94a0b0",
    grid="#2c3440",
    cycle=("#4DA3E6", "#FF8C42", "#2CC79A", "#E8A0C8", "#F2BE4A", "#A9DCF9", "#C9AE6A"),
    sequential="cividis",
)


@dataclass(frozen=True)
class LineStyle:
    """How one run is drawn in every figure."""

    color: str
    dashes: Dashes


def line_styles(runs: Sequence[Run], theme: Theme) -> list[LineStyle]:
    """One style a run: a colour each, controls muted, dashes once the colours run out.

    Args:
      runs: in the order of the report.
      theme: where the colours come from.
    """
    styles: list[LineStyle] = []
    taken: set[tuple[int, int]] = set()
    free = [(turn, slot) for turn in range(len(_LINE_STYLES)) for slot in range(len(theme.cycle))]
    reserved = {_FIXED_SLOTS[run.method] for run in runs if run.method in _FIXED_SLOTS}
    controls = 0
    for run in runs:
        if run.method in _CONTROLS:
            styles.append(LineStyle(theme.muted, _LINE_STYLES[controls % len(_LINE_STYLES)]))
            controls += 1
            continue
        fixed = (0, _FIXED_SLOTS.get(run.method, -1))
        open_pairs = [pair for pair in free if pair not in taken]
        unreserved = [(turn, slot) for turn, slot in open_pairs if turn or slot not in reserved]
        if fixed in open_pairs:
            pair = fixed
        else:
            # Past 28 runs the styles repeat: no figure can tell that many lines apart anyway.
            pair = (unreserved or open_pairs or free)[0]
        taken.add(pair)
        styles.append(LineStyle(theme.cycle[pair[1]], _LINE_STYLES[pair[0]]))
    return styles


def new_figure(height: float, theme: Theme) -> Figure:
    """An empty figure of the report's width, drawn by Agg; no pyplot, so no global state."""
    return Figure(
        figsize=(FIGURE_WIDTH, height),
        dpi=200,
        layout="constrained",
        facecolor=theme.background,
    )


def dress(axes: Axes, theme: Theme, *, title: str = "", grid: bool = True) -> None:
    """Gives axes the theme's colours, sizes and a light grid."""
    axes.set_facecolor(theme.background)
    axes.set_title(plain(title), loc="left", fontsize=11, color=theme.ink, fontweight="bold")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
        spine.set_linewidth(0.8)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.ink, labelsize=9.5)
    axes.xaxis.label.set(color=theme.ink, fontsize=10)
    axes.yaxis.label.set(color=theme.ink, fontsize=10)
    if grid:
        axes.grid(True, color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)


def plain(text: str, width: int = 34) -> str:
    """Text as matplotlib should show it: no math, one line, cut to ``width`` characters.

    A label comes from the user, and an odd ``$`` in it would be an error in the math parser.
    """
    line = " ".join(text.split())
    if len(line) > width:
        line = line[: width - 1] + "…"
    return line.replace("$", r"\$")
