"""Colours, line styles and axes that all figures share, in a light and a dark version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedjax_rec.reports.runs import Run

__all__ = ["Theme", "LIGHT", "DARK", "LineStyle", "line_styles", "new_figure", "dress", "plain"]

#: matplotlib's (offset, lengths of strokes and gaps); no lengths is a solid line.
Dashes: TypeAlias = tuple[float, tuple[float, ...]]

#: Inches; figures are shown at up to 700 CSS pixels, so 1 inch is 100 of them.
FIGURE_WIDTH = 7.0

_LINE_STYLES: tuple[Dashes, ...] = (
    (0, ()),
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (5, 1.5, 1.5, 1.5)),
    (0, (5, 1.5, 1.5, 1.5, 1.5, 1.5)),
)

# What the others are held against, and grey: nobody trains, nothing is shared, or all data is.
_CONTROLS = ("local", "popularity", "mf-local", "mf-central", "ncf-central")

# (line style, colour of the cycle; None: grey) of each method, from report to report. There are
# more methods than colours to tell apart: two that are related have one, the second of them dashed.
_PLACES: dict[str, tuple[int, int | None]] = {
    "cgfedrec": (0, 0),
    "mlcgfedrec": (1, 0),
    "pfedrec": (0, 1),
    "gpfedrec": (1, 1),
    "fedmf": (0, 2),
    "fedncf": (1, 2),
    "alignfedrec": (0, 3),
    "cofedrec": (1, 3),
    "fedcia": (0, 4),
    "fedcia-gf": (1, 4),
    "rqfedrec": (0, 5),
    "fedca": (1, 5),
    "gfmfr": (0, 6),
    "fedrap": (1, 6),
    **{name: (dashes, None) for dashes, name in enumerate(_CONTROLS)},
}


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
    """One style a run, no two alike among 35 runs.

    A method has its own colour and dashes, the same in every report; controls are muted. Further
    runs of one method, and methods from elsewhere, get what the others leave, solid lines first.

    Args:
      runs: in the order of the report.
      theme: where the colours come from.
    """
    seen: set[str] = set()
    # A method's place is its own from the start, whoever comes before it.
    taken = {_PLACES[run.method] for run in runs if run.method in _PLACES}
    styles: list[LineStyle] = []
    for run in runs:
        place = None if run.method in seen else _PLACES.get(run.method)
        seen.add(run.method)
        if place is None:
            colors = [None] if run.method in _CONTROLS else range(len(theme.cycle))
            every = list(product(range(len(_LINE_STYLES)), colors))
            free = [other for other in every if other not in taken]
            # Past 35 runs, or 5 controls, styles repeat: no figure can tell so many lines apart.
            place = (free or every)[0]
        taken.add(place)
        dashes, slot = place
        color = theme.muted if slot is None else theme.cycle[slot]
        styles.append(LineStyle(color, _LINE_STYLES[dashes]))
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
