"""The figures of a comparison: accuracy over bytes, NDCG user by user, users and items by group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedjax_rec.compare.standings import GroupScore, Profile, Standings
from fedjax_rec.reports.figures import Picture, make_picture
from fedjax_rec.reports.plots import place_legend
from fedjax_rec.reports.theme import LIGHT, LineStyle, Theme, dress, line_styles, new_figure, plain
from fedjax_rec.units import human_bytes

__all__ = [
    "comparison_pictures",
    "group_scores",
    "ndcg_by_user",
    "pareto_front",
    "scores_and_bytes",
]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TITLES = {"ndcg@10/uni99": "NDCG@10 · uni99", "ndcg@10/full": "NDCG@10 · full"}


def comparison_pictures(standings: Standings) -> list[Picture]:
    """All figures of one protocol.

    Args:
      standings: its standings.
    """
    protocol, metric = standings.protocol, _TITLES[standings.metric]
    ranking = standings.metric.partition("/")[2]
    candidates = "99 other items" if ranking == "uni99" else "all items"
    return [
        make_picture(
            f"pareto-{protocol}",
            "Accuracy over bytes",
            f"Test {metric} (mean over seeds; bars: standard deviation) over what one client "
            "sends and receives: in a round (left), and in all rounds up to the best (right). "
            "Further left is cheaper, and the scale is logarithmic; what moves nothing stands at "
            "0. The line is the Pareto front: what is on it is beaten in both by no other. A "
            "dashed line across: a centralized reference, to which users give their data away.",
            partial(scores_and_bytes, standings),
        ),
        make_picture(
            f"users-{protocol}",
            "NDCG user by user",
            "The share of users whose NDCG@10, averaged over seeds, exceeds a value. Where a line "
            "begins at the left is the share of users who get anything; the further right it "
            "reaches, the better the lists of those. Equal averages may hide very different lines.",
            partial(ndcg_by_user, standings),
        ),
        make_picture(
            f"activity-{protocol}",
            "Light and heavy users",
            f"Test {metric} of users by the number of items that they train on, in groups of "
            "about a quarter of them, the lightest first. Bars: standard error over the group's "
            "users.",
            partial(group_scores, standings, "by_activity"),
        ),
        make_picture(
            f"popularity-{protocol}",
            "Head and tail items",
            f"The share of held-out items that rank among the first 10 (against {candidates}), by "
            "how many users train on them. Bars: standard error, from the number of held-out "
            "items. Recommending what is popular serves the head alone.",
            partial(group_scores, standings, "by_popularity"),
        ),
    ]


def pareto_front(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """The points that no other beats: at most as costly and as good, and better in one of both.

    Args:
      costs: the lower the better.
      scores: the higher the better.

    Returns:
      Their indices, the cheapest first; of equal points the first alone.

    Example:
      >>> pareto_front([1, 2, 3], [0.2, 0.1, 0.3])
      [0, 2]
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i], i)):
        if not front or scores[index] > scores[front[-1]]:
            front.append(index)
    return front


def scores_and_bytes(standings: Standings, theme: Theme = LIGHT) -> Figure:
    """Scores over the bytes of one client, per round and up to the best round, with the fronts.

    Args:
      standings: of one protocol.
      theme: colours.
    """
    frame = standings.frame
    figure = new_figure(3.9, theme)
    panels = figure.subplots(1, 2, sharey=True)
    scores = (100 * frame[standings.metric]).tolist()
    errors = (100 * frame[f"{standings.metric} std"]).fillna(0.0).tolist()
    styles = _styles(standings.profiles, theme)
    profiles = enumerate(standings.profiles.values())
    federated = [index for index, profile in profiles if not profile.centralized]
    for axes, suffix, title in (
        (panels[0], "", "bytes of a client, a round"),
        (panels[1], "_to_best", "bytes of a client, up to the best round"),
    ):
        costs = (frame[f"uplink_bytes{suffix}"] + frame[f"downlink_bytes{suffix}"]).tolist()
        places, nothing = _byte_axis(axes, [costs[i] for i in federated])
        at = dict(zip(federated, places, strict=True))
        chosen = [costs[i] for i in federated], [scores[i] for i in federated]
        front = [federated[i] for i in pareto_front(*chosen)]
        # Stairs: at a given number of bytes, the best score that is to be had for it.
        axes.step(
            [at[i] for i in front] + [axes.get_xlim()[1]],
            [scores[i] for i in [*front, *front[-1:]]] or [math.nan],
            where="post",
            color=theme.muted,
            linewidth=1.2,
            zorder=1,
        )
        for index, (style, marker) in enumerate(styles):
            if index not in at:
                axes.axhline(scores[index], color=style.color, linewidth=1.4, linestyle=(0, (4, 3)))
                continue
            axes.errorbar(
                at[index],
                scores[index],
                yerr=errors[index],
                marker=marker,
                markersize=7,
                color=style.color,
                markeredgecolor=theme.background,
                elinewidth=1.3,
                zorder=3,
            )
        dress(axes, theme, title=_TITLES[standings.metric])
        if nothing is not None:
            axes.axvline(nothing, color=theme.grid, linewidth=1.0, linestyle=":", zorder=0)
        axes.set_xlabel(title)
        axes.set_ylim(0, None)
    panels[0].set_ylabel("test score (%)")
    _legend(figure, standings, theme)
    return figure


def ndcg_by_user(standings: Standings, theme: Theme = LIGHT) -> Figure:
    """The complementary distribution function of users' NDCG@10, a line a contestant.

    Args:
      standings: of one protocol.
      theme: colours.
    """
    figure = new_figure(3.9, theme)
    axes = figure.subplots()
    for profile, (style, _) in zip(
        standings.profiles.values(), _styles(standings.profiles, theme), strict=True
    ):
        values = profile.per_user()
        values = np.sort(values[~np.isnan(values)])
        above = 100 * (1 - np.arange(1, len(values) + 1) / len(values))
        # Of equal values the last: the share of users beyond all of them.
        last = np.append(values[1:] != values[:-1], True)
        axes.step(
            np.concatenate([[0.0], values[last], [1.0]]),
            np.concatenate([[100 * float(np.mean(values > 0))], above[last], [0.0]]),
            where="post",
            color=style.color,
            linestyle=style.dashes,
            linewidth=1.8,
        )
    dress(axes, theme, title=_TITLES[standings.metric])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("a user's NDCG@10, averaged over seeds")
    axes.set_ylabel("users above it (%)")
    _legend(figure, standings, theme)
    return figure


def group_scores(standings: Standings, groups: str, theme: Theme = LIGHT) -> Figure:
    """Scores by group, a line a contestant.

    Args:
      standings: of one protocol.
      groups: "by_activity" or "by_popularity", as of `Profile`.
      theme: colours.
    """
    figure = new_figure(3.9, theme)
    axes = figure.subplots()
    profiles = list(standings.profiles.values())
    count = len(profiles)
    titles: list[str] = []
    for index, (profile, (style, marker)) in enumerate(
        zip(profiles, _styles(standings.profiles, theme), strict=True)
    ):
        found: tuple[GroupScore, ...] = getattr(profile, groups)
        titles = [_group_title(group, groups) for group in found]
        # Side by side, so that bars of equal scores can be told apart.
        shift = 0.4 * ((index + 0.5) / count - 0.5)
        axes.errorbar(
            np.arange(len(found)) + shift,
            [100 * group.score for group in found],
            yerr=[100 * group.error for group in found],
            color=style.color,
            linestyle=style.dashes,
            linewidth=1.3,
            marker=marker,
            markersize=6,
            markeredgecolor=theme.background,
        )
    title = _TITLES[standings.metric] if groups == "by_activity" else "Held-out items found"
    dress(axes, theme, title=title)
    axes.set_xticks(range(len(titles)), titles)
    axes.set_xlim(-0.5, len(titles) - 0.5)
    axes.set_ylim(0, None)
    if groups == "by_activity":
        axes.set_xlabel("items that a user trains on")
        axes.set_ylabel("test score (%)")
    else:
        axes.set_ylabel("among the first 10 (%)")
    _legend(figure, standings, theme)
    return figure


def _group_title(group: GroupScore, groups: str) -> str:
    members = "users" if groups == "by_activity" else "held out"
    return f"{group.title.replace(' (', chr(10) + '(')}\n{group.count:,} {members}"


def _byte_axis(axes: Axes, costs: Sequence[float]) -> tuple[list[float], float | None]:
    """A logarithmic axis for bytes, with a place for none at its left end, where that is needed.

    Returns:
      Every cost's place, and the place of 0.
    """
    moving = [cost for cost in costs if cost > 0]
    low, high = (min(moving), max(moving)) if moving else (1.0, 1.0)
    decades = math.log10(high / low)
    nothing = low / 10 ** max(0.6, 0.15 * decades) if len(moving) < len(costs) else None
    axes.set_xscale("log")
    axes.set_xlim((low if nothing is None else nothing) / 1.8, high * 1.8)
    ticks: list[float] = []
    for subs in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        if len(ticks) < 2:
            located = LogLocator(base=10, subs=subs, numticks=5).tick_values(low, high)
            ticks = [tick for tick in located if low / 1.2 <= tick <= high * 1.5]
    ticks = ticks or [low]
    if nothing is not None:
        ticks = [nothing, *ticks]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: "0" if value == nothing else human_bytes(value).replace(".0 ", " ")
        )
    )
    return [cost if cost > 0 else nothing or low for cost in costs], nothing


def _styles(profiles: Mapping[str, Profile], theme: Theme) -> list[tuple[LineStyle, str]]:
    """Line style and marker of each contestant."""
    styles = line_styles([profile.run for profile in profiles.values()], theme)
    return [(style, _MARKERS[i % len(_MARKERS)]) for i, style in enumerate(styles)]


def _legend(figure: Figure, standings: Standings, theme: Theme) -> None:
    handles = [
        Line2D(
            *([], []),
            color=style.color,
            linestyle=style.dashes,
            linewidth=2.0,
            marker=marker,
            markersize=6,
            markeredgecolor=theme.background,
            label=plain(label),
        )
        for label, (style, marker) in zip(
            standings.profiles, _styles(standings.profiles, theme), strict=True
        )
    ]
    place_legend(figure, handles, theme)
