"""The figures of RQFedRec's benchmarks: bars of the ablations, and recall against bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator

from fedjax_rec.errors import InputError
from fedjax_rec.reports.theme import LIGHT, dress, new_figure
from fedjax_rec.units import human_bytes

__all__ = ["draw_ablations", "draw_recall_bytes"]

_Row = Mapping[str, Any]

# Kind of a variant -> its name in the legend, place in the theme's cycle.
_KINDS = {"full": ("as it is", 0), "left out": ("a part left out", 1), "instead": ("changed", 5)}
# Method -> name, place in the theme's cycle, marker; a line joins the widths of FedMF.
_POINTS = {
    "fedmf": ("FedMF", 2, "s"),
    "rqfedrec": ("RQFedRec", 0, "o"),
    "fedcia": ("FedCIA", 3, "^"),
    "fedcia-gf": ("FedCIA, graph filter", 4, "v"),
    "popularity": ("popularity", 6, "D"),
}


def draw_ablations(rows: Sequence[_Row]) -> Figure:
    """Two panels of bars, Recall@10 and NDCG@10 as published; a variant a line.

    Args:
      rows: of ``rqfedrec_ablations``: variant, kind, the metrics in percent and their standard
        deviations (None for one seed). The first one's level is drawn through all.

    Raises:
      InputError: no rows.
    """
    if not rows:
        raise InputError("no variant was trained: there is nothing to draw")
    figure = new_figure(1.1 + 0.3 * len(rows), LIGHT)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric, title in (
        (panels[0], "Recall@10", "Recall@10, %"),
        (panels[1], "NDCG*@10", "NDCG@10 as published, %"),
    ):
        _bars(axes, rows, metric, title)
    panels[0].set_yticks(range(len(rows)), [row["variant"] for row in rows])
    panels[0].invert_yaxis()  # the first at the top
    shown = {row["kind"] for row in rows}
    figure.legend(
        handles=[
            Patch(color=LIGHT.cycle[color], label=label)
            for kind, (label, color) in _KINDS.items()
            if kind in shown
        ],
        loc="outside upper left",
        ncols=len(shown),
        frameon=False,
        fontsize=9.5,
        labelcolor=LIGHT.ink,
    )
    return figure


def _bars(axes: Axes, rows: Sequence[_Row], metric: str, title: str) -> None:
    values = [row[metric] for row in rows]
    spread = [row[f"± {metric}"] or 0.0 for row in rows]
    dress(axes, LIGHT, title=title, grid=False)
    axes.grid(True, axis="x", color=LIGHT.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.barh(
        range(len(rows)),
        values,
        height=0.68,
        color=[LIGHT.cycle[_KINDS[row["kind"]][1]] for row in rows],
        xerr=spread if any(spread) else None,
        error_kw={"ecolor": LIGHT.ink, "elinewidth": 1.0, "capsize": 2.5},
    )
    axes.axvline(values[0], color=LIGHT.ink, linewidth=0.8, linestyle=":")
    longest = max(value + error for value, error in zip(values, spread, strict=True))
    for place, (value, error) in enumerate(zip(values, spread, strict=True)):
        axes.annotate(
            f"{value:.1f}",
            (value + error, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=LIGHT.ink,
            bbox={"facecolor": LIGHT.background, "edgecolor": "none", "pad": 0.8},
        )
    axes.set_xlim(0, 1.14 * (longest or 1.0))  # room for the numbers


def draw_recall_bytes(rows: Sequence[_Row]) -> Figure:
    """Test Recall@10 against a client's bytes a round, down and up, on a logarithmic scale.

    Args:
      rows: of ``recall_bytes``: method, kB, Recall@10 in percent, channels, bits, and what each is
        the smallest of ("smallest", or None). Methods that send nothing are levels.

    Raises:
      InputError: no rows, or none that sends anything.
    """
    sending = [row for row in rows if row["kB"] > 0]
    if not sending:
        raise InputError("no method with bytes was trained: there is nothing to draw")
    figure = new_figure(5.0, LIGHT)
    axes = figure.subplots()
    dress(axes, LIGHT)
    for row in rows:
        if row["kB"] == 0:
            label = "local MF: no bytes" if row["method"] == "local-mf" else row["method"]
            axes.axhline(row["Recall@10"], color=LIGHT.muted, linestyle="--", label=label)
    _frontier(axes, sending)
    for method, (label, color, marker) in _POINTS.items():
        own = [row for row in sending if row["method"] == method]
        groups: tuple[tuple[str, Callable[[_Row], bool], str], ...] = (
            ("", lambda row: row["channels"] != 1, LIGHT.cycle[color]),
            (", one channel", lambda row: row["channels"] == 1, LIGHT.background),
        )
        for suffix, belongs, fill in groups:
            group = [row for row in own if belongs(row)]
            if group:
                axes.plot(
                    [1e3 * row["kB"] for row in group],
                    [row["Recall@10"] for row in group],
                    linestyle="none",
                    marker=marker,
                    markersize=5.5,
                    markerfacecolor=fill,
                    markeredgecolor=LIGHT.cycle[color],
                    label=label + suffix,
                )
    marks = _mark(axes, [row for row in sending if row["smallest"]])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: human_bytes(value).replace(".0 ", " "))
    )
    axes.set_xlabel("bytes a client and round, down and up")
    axes.set_ylabel("Recall@10, %")
    axes.set_ylim(0, 1.12 * max(row["Recall@10"] for row in rows))
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "labelcolor": LIGHT.ink}
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, **style)
    if marks:
        figure.legend(handles=marks, loc="outside lower left", **style)
    return figure


def _frontier(axes: Axes, rows: Sequence[_Row]) -> None:
    """A step line through the points that no cheaper one beats."""
    best: list[_Row] = []
    for row in sorted(rows, key=lambda row: (row["kB"], -row["Recall@10"])):
        if not best or row["Recall@10"] > best[-1]["Recall@10"]:
            best.append(row)
    axes.step(
        [1e3 * row["kB"] for row in best] + [1e3 * max(row["kB"] for row in rows)],
        [row["Recall@10"] for row in best] + [best[-1]["Recall@10"]],
        where="post",
        color=LIGHT.grid,
        linewidth=2.5,
        zorder=0.5,
        label="best for its bytes",
    )


def _mark(axes: Axes, rows: Sequence[_Row]) -> list[Line2D]:
    """A ring and a letter around what is the smallest of something; returns a legend for them."""
    handles = []
    for letter, row in zip("ABC", rows, strict=False):  # one of each reference, at most
        place = (1e3 * row["kB"], row["Recall@10"])
        axes.plot(
            *place,
            linestyle="none",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=LIGHT.ink,
        )
        axes.annotate(
            letter,
            place,
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9.5,
            fontweight="bold",
            color=LIGHT.ink,
        )
        parts = [f"{key} {row[key]}" for key in ("d", "M", "L") if row[key] is not None]
        parts += ["one channel"] if row["channels"] == 1 else []
        parts += [f"{row['bits']} bits up"] if row["bits"] is not None else []
        name = _POINTS[row["method"]][0]
        size = human_bytes(1e3 * row["kB"])
        kept = row["smallest"].replace(", ", " and of ")
        label = f"{', '.join([name, *parts])}, {size}: 98 % of {kept}"
        handles.append(
            Line2D([], [], linestyle="none", marker=f"${letter}$", color=LIGHT.ink, label=label)
        )
    return handles
