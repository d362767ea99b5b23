"""Figures of the item clusters of one run: their sizes over rounds, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import normalized_mutual_info_score

from fedjax_rec.reports.runs import ItemEmbeddings, Run
from fedjax_rec.reports.theme import LIGHT, Theme, dress, new_figure

__all__ = [
    "cluster_history",
    "cluster_sizes_over_rounds",
    "ItemMap",
    "project_items",
    "item_map",
    "recovered_truth",
    "cluster_examples",
]

#: t-SNE of this many items takes seconds on two cores, and more dots would hide each other.
MAX_MAPPED_ITEMS = 2000
_MARKERS = ("o", "s", "^", "D")
_MAX_NUMBERED = 80
_MIN_NUMBERED = 8


def cluster_history(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Cluster sizes by round.

    Args:
      run: any run.

    Returns:
      rounds [r] int and sizes [r, C] float, largest first, 0 where a round has fewer clusters;
      both empty for a run without clusters.
    """
    if "cluster_sizes" not in run.history:
        return np.empty(0, dtype=int), np.empty((0, 0))
    rows = run.test_rows
    kept = [
        (number, sorted((size for size in sizes if size > 0), reverse=True))
        for number, sizes in zip(rows["round"], rows["cluster_sizes"], strict=True)
        if isinstance(sizes, list) and any(size > 0 for size in sizes)
    ]
    matrix = np.zeros((len(kept), max((len(sizes) for _, sizes in kept), default=0)))
    for row, (_, sizes) in enumerate(kept):
        matrix[row, : len(sizes)] = sizes
    return np.array([number for number, _ in kept], dtype=int), matrix


def cluster_sizes_over_rounds(run: Run, theme: Theme = LIGHT) -> Figure:
    """A heatmap of cluster sizes (largest at the bottom) under the effective number of clusters.

    The effective number is exp(entropy of the shares): C clusters of equal size count as C, one
    that swallows all items as 1. It shows a collapse that 60 single curves would hide.

    Args:
      run: a run with cluster sizes (``cluster_history`` is not empty).
      theme: colours.
    """
    rounds, sizes = cluster_history(run)
    figure = new_figure(4.4, theme)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    shares = sizes / sizes.sum(axis=1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    effective = np.exp(-(shares * logs).sum(axis=1))
    counts = (sizes > 0).sum(axis=1)
    marker = "o" if len(rounds) == 1 else ""
    top.plot(rounds, counts, color=theme.muted, linewidth=1.4, linestyle=":", marker=marker)
    top.plot(rounds, effective, color=theme.cycle[0], linewidth=1.8, marker=marker)
    top.set_ylim(0, 1.15 * counts.max())
    _label_end(top, rounds[-1], counts[-1], "clusters", theme.muted, "bottom")
    _label_end(top, rounds[-1], effective[-1], "effective", theme.cycle[0], "top")
    top.set_ylabel("number")
    dress(top, theme, title="How many clusters")

    edges = _edges(rounds)
    shown = np.ma.masked_equal(sizes.T, 0)
    mesh = bottom.pcolormesh(
        edges,
        np.arange(sizes.shape[1] + 1) + 0.5,
        shown,
        cmap=theme.sequential,
        norm=LogNorm(vmin=1, vmax=max(2.0, sizes.max())),
        rasterized=True,
    )
    bottom.set_xlabel("round")
    bottom.set_ylabel("cluster, by size")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    bottom.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    dress(bottom, theme, title="How large they are", grid=False)
    bar = figure.colorbar(mesh, ax=bottom, label="items", pad=0.015, aspect=16)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=9.5)
    bar.ax.yaxis.label.set(color=theme.ink, fontsize=10)
    bar.outline.set_visible(False)
    return figure


@dataclass(frozen=True)
class ItemMap:
    """Items in two dimensions.

    Attributes:
      points: [s, 2] float64.
      items: [s] int, their indices among the m items.
      total: m.
      method: how they were projected, in words.
    """

    points: np.ndarray
    items: np.ndarray
    total: int
    method: str


def project_items(embeddings: ItemEmbeddings, *, seed: int = 0) -> ItemMap | None:
    """Places items on a plane so that close embeddings stay close.

    t-SNE (started from PCA, so that the large shape is kept and the seed decides little): PCA
    alone shows two directions of d, and 60 clusters on top of each other. A large catalogue is
    sampled.

    Args:
      embeddings: of m items.
      seed: of the sample and of t-SNE.

    Returns:
      The map; None where there is nothing to see (fewer than 5 items, non-finite values, or all
      items in one place).

    Reference:
      van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    vectors = np.asarray(embeddings.vectors, dtype=np.float64)
    total = len(vectors)
    rng = np.random.default_rng(seed)
    items = np.arange(total)
    if total > MAX_MAPPED_ITEMS:
        items = np.sort(rng.choice(total, MAX_MAPPED_ITEMS, replace=False))
    sample = vectors[items]
    if len(sample) < 5 or not np.isfinite(sample).all() or np.ptp(sample, axis=0).max() == 0:
        return None
    if sample.shape[1] < 2:
        return ItemMap(
            np.column_stack([sample[:, 0], np.zeros(len(sample))]), items, total, "as is"
        )
    # One common scale: t-SNE's own defaults assume values near 1, whatever the training left.
    sample = sample / sample.std()
    start = PCA(n_components=2, random_state=seed).fit_transform(sample)
    spread = start[:, 0].std()
    projection = TSNE(
        init=start / spread * 1e-4,
        perplexity=min(30.0, (len(sample) - 1) / 3),
        random_state=seed,
    )
    return ItemMap(projection.fit_transform(sample), items, total, "t-SNE")


def item_map(projected: ItemMap, embeddings: ItemEmbeddings, theme: Theme = LIGHT) -> Figure:
    """The items on their plane, coloured by cluster, and beside it by planted truth if known.

    Sixty clusters outnumber the colours that an eye can tell apart, so colours repeat, but never
    between neighbours (greedily, by the clusters' centres), and a number stands at each centre
    that has room for it.

    Args:
      projected: from ``project_items``.
      embeddings: the same items, with labels and truth where known.
      theme: colours.
    """
    panels = [
        (title, labels[projected.items])
        for title, labels in (
            ("Clusters of the last round", embeddings.labels),
            ("Planted clusters", embeddings.truth),
        )
        if labels is not None
    ] or [("Item embeddings", np.zeros(len(projected.items), dtype=int))]
    figure = new_figure(5.6 if len(panels) == 1 else 3.9, theme)
    for axes, (title, labels) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        _scatter(axes, projected.points, labels, theme, small=len(panels) > 1)
        dress(axes, theme, title=title, grid=False)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def recovered_truth(embeddings: ItemEmbeddings) -> float | None:
    """Normalized mutual information of labels and planted truth in [0, 1]; None without both."""
    if embeddings.labels is None or embeddings.truth is None:
        return None
    return float(normalized_mutual_info_score(embeddings.truth, embeddings.labels))


def cluster_examples(
    embeddings: ItemEmbeddings, *, clusters: int = 12, examples: int = 5
) -> list[tuple[int, int, list[str]]]:
    """The largest clusters and the titles nearest to their centres.

    Args:
      embeddings: of the items.
      clusters: how many clusters at most.
      examples: how many titles each at most.

    Returns:
      (label, number of items, titles) by descending size; empty without labels or titles.
    """
    if embeddings.labels is None or embeddings.title is None:
        return []
    found = []
    labels, sizes = np.unique(embeddings.labels, return_counts=True)
    for index in np.argsort(-sizes, kind="stable")[:clusters]:
        members = np.flatnonzero(embeddings.labels == labels[index])
        vectors = embeddings.vectors[members]
        distance = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        nearest = members[np.argsort(distance, kind="stable")]
        titles = [title for item in nearest if (title := str(embeddings.title[item]))]
        if titles:
            found.append((int(labels[index]), int(sizes[index]), titles[:examples]))
    return found


def _scatter(
    axes: Axes, points: np.ndarray, labels: np.ndarray, theme: Theme, *, small: bool
) -> None:
    names, sizes = np.unique(labels, return_counts=True)
    # The median stands inside the cluster's main body even if some items lie elsewhere.
    centres = np.array([np.median(points[labels == name], axis=0) for name in names])
    colors = _spread_colors(centres, sizes, len(theme.cycle))
    # Few items get large dots, many small ones; two panels have half the room each.
    dot = float(np.clip(16_000 / len(points), 9, 36)) * (0.6 if small else 1.0)
    for index, name in enumerate(names):
        member = labels == name
        axes.scatter(
            points[member, 0],
            points[member, 1],
            s=dot,
            color=theme.cycle[colors[index]],
            marker=_MARKERS[index % len(_MARKERS)],
            linewidths=0,
            alpha=0.85,
        )
    for index in _room_for_numbers(points, centres, sizes):
        axes.annotate(
            str(names[index]),
            centres[index],
            ha="center",
            va="center",
            fontsize=7 if small else 8,
            fontweight="bold",
            color=theme.ink,
            bbox={
                "boxstyle": "round,pad=0.12",
                "facecolor": theme.background,
                "edgecolor": "none",
                "alpha": 0.78,
            },
        )


def _room_for_numbers(points: np.ndarray, centres: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Which clusters get their number: largest first, none on another, none that hides its dots."""
    if len(centres) < 2:
        return []
    gap = 0.035 * np.ptp(points, axis=0).max()
    placed: list[int] = []
    for index in np.argsort(-sizes, kind="stable"):
        if sizes[index] >= _MIN_NUMBERED and all(
            np.linalg.norm(centres[index] - centres[other]) > gap for other in placed
        ):
            placed.append(int(index))
    return placed[:_MAX_NUMBERED]


def _spread_colors(centres: np.ndarray, sizes: np.ndarray, colors: int) -> np.ndarray:
    """Gives each cluster, largest first, the colour whose nearest other use is farthest away."""
    chosen = np.full(len(centres), -1)
    for index in np.argsort(-sizes, kind="stable"):
        gaps = np.full(colors, np.inf)
        for color in range(colors):
            used = centres[chosen == color]
            if len(used):
                gaps[color] = np.linalg.norm(used - centres[index], axis=1).min()
        chosen[index] = int(np.argmax(gaps))
    return chosen


def _edges(rounds: np.ndarray) -> np.ndarray:
    """[r + 1] cell borders half way between evaluated rounds."""
    if len(rounds) == 1:
        return np.array([rounds[0] - 0.5, rounds[0] + 0.5])
    middles = (rounds[1:] + rounds[:-1]) / 2
    first, last = rounds[0] - (middles[0] - rounds[0]), rounds[-1] + (rounds[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def _label_end(axes: Axes, x: float, y: float, text: str, color: str, side: str) -> None:
    label = axes.annotate(
        f"{y:.0f} {text}",
        (x, y),
        xytext=(8, 0),
        textcoords="offset points",
        va=side,
        fontsize=9,
        color=color,
    )
    # It stands above the colour bar, whose room the layout has set aside already.
    label.set_in_layout(False)
