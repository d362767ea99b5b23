"""Which figures a report holds, each with its title, its caption and its two colourings."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from fedjax_rec.reports.clusters import (
    cluster_history,
    cluster_sizes_over_rounds,
    item_map,
    project_items,
    recovered_truth,
)
from fedjax_rec.reports.plots import (
    Ranking,
    communities_over_rounds,
    community_panels,
    panel_metrics,
    scores_over_bytes,
    scores_over_rounds,
    wall_time,
)
from fedjax_rec.reports.runs import Run, display_names
from fedjax_rec.reports.theme import DARK, LIGHT, Theme

__all__ = ["Picture", "make_picture", "report_figures"]


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
      name: of its PNG file, without the ending; letters, digits and "-".
      title: in words.
      caption: what to look for, and how it was made.
      light: PNG for light backgrounds.
      dark: PNG for dark backgrounds.
    """

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes


def report_figures(runs: Sequence[Run]) -> list[Picture]:
    """All figures that the runs give material for, comparisons first.

    Args:
      runs: the runs of one report.
    """
    pictures = []
    scored: list[Ranking] = [rank for rank in ("uni99", "full") if panel_metrics(runs, rank)]
    for rank in scored:
        candidates = "99 other items" if rank == "uni99" else "all items"
        pictures.append(
            make_picture(
                f"rounds-{rank}",
                f"Scores over rounds, against {candidates}",
                "Test scores. The dot is the round that validation chose; its scores are those "
                "of the table.",
                partial(scores_over_rounds, runs, rank),
            )
        )
    if scored and any(_moves_bytes(run) for run in runs):
        silent = [n for run, n in zip(runs, display_names(runs), strict=True) if _silent(run)]
        across = f" A dashed line across: nothing moves that way ({', '.join(silent)})."
        pictures.append(
            make_picture(
                f"bytes-{scored[0]}",
                "Scores over bytes",
                "The same test scores over what all clients together have sent (left) and "
                "received (right). Further left is cheaper; the scale is logarithmic."
                + (across if silent else ""),
                lambda theme: scores_over_bytes(runs, scored[0], theme),
            )
        )
    timed = [run for run in runs if run.total("wall_seconds")]
    if timed:
        pictures.append(
            make_picture(
                "time",
                "Where the time went",
                "Compiling happens once; device is local training and aggregation, host is the "
                "server's work between rounds (such as clustering), other is data and files.",
                lambda theme: wall_time(timed, theme),
            )
        )
    if columns := community_panels(runs):
        pictures.append(
            make_picture(
                "communities",
                "Communities over rounds",
                _community_caption(columns),
                lambda theme: communities_over_rounds(runs, theme),
            )
        )
    for index, (run, name) in enumerate(zip(runs, display_names(runs), strict=True), start=1):
        pictures += _cluster_pictures(run, name, index)
    return pictures


def _community_caption(columns: Sequence[str]) -> str:
    caption = (
        "The groups of items that the server finds between rounds; k-means is told their number, "
        "community detection finds it. The dot is the round that validation chose."
    )
    if "modularity" in columns:
        caption += (
            " Modularity is how much more of the items' similarity lies inside the groups than "
            "in a random graph of the same degrees (0: no more); a gap is a graph without edges."
        )
    if "nmi" in columns:
        caption += (
            " NMI is the normalized mutual information with the planted clusters (0: none "
            "recovered, 1: all)."
        )
    return caption


def _cluster_pictures(run: Run, name: str, index: int) -> list[Picture]:
    pictures = []
    if len(cluster_history(run)[0]):
        pictures.append(
            make_picture(
                f"clusters-{index}",
                f"Cluster sizes: {name}",
                "The effective number is exp(entropy of the shares): it equals the number of "
                "clusters when all are of one size, and falls towards 1 when one swallows the "
                "rest.",
                lambda theme: cluster_sizes_over_rounds(run, theme),
            )
        )
    projected = project_items(run.embeddings) if run.embeddings is not None else None
    if run.embeddings is not None and projected is not None:
        embeddings = run.embeddings
        caption = (
            f"{len(projected.items):,} of {projected.total:,} items by their mean embedding, "
            f"projected by {projected.method}: near each other means similar, distances across "
            "the map mean little."
        )
        if embeddings.labels is not None:
            caption += (
                " Colours repeat among clusters; a number stands at a cluster's centre. Patches "
                "of one colour and shape mean that the clusters follow the embeddings; confetti, "
                "that they do not."
            )
        mutual = recovered_truth(embeddings)
        if mutual is not None:
            caption += (
                f" The clusters recover the planted ones with a normalized mutual information of "
                f"{mutual:.2f} (0: none, 1: all)."
            )
        pictures.append(
            make_picture(
                f"items-{index}",
                f"Map of the items: {name}",
                caption,
                lambda theme: item_map(projected, embeddings, theme),
            )
        )
    return pictures


def make_picture(name: str, title: str, caption: str, draw: Callable[[Theme], Figure]) -> Picture:
    """Draws a figure in both themes.

    Args:
      name, title, caption: as of `Picture`.
      draw: makes it in the colours of a theme.
    """
    return Picture(name, title, caption, _png(draw(LIGHT)), _png(draw(DARK)))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without matplotlib's own name and version, equal runs give equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _bytes_moved(run: Run, direction: str) -> float:
    column = f"{direction}_bytes_total"
    return float(run.test_rows[column].fillna(0).max()) if column in run.history else 0.0


def _moves_bytes(run: Run) -> bool:
    return _bytes_moved(run, "uplink") > 0 or _bytes_moved(run, "downlink") > 0


def _silent(run: Run) -> bool:
    return min(_bytes_moved(run, "uplink"), _bytes_moved(run, "downlink")) == 0
