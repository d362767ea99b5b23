"""Who stands where under one protocol: scores over seeds, cost, significance, users and items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedjax_rec.compare.contestants import Contestant
from fedjax_rec.compare.groups import Groups, activity_groups, popularity_groups
from fedjax_rec.compare.significance import holm, sign_flip_p
from fedjax_rec.compare.user_ranks import UserRanks, load_user_ranks
from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import ndcg
from fedjax_rec.evaluation.ranks import TOP_K
from fedjax_rec.reports.runs import Run, load_run

__all__ = ["GroupScore", "Profile", "Standings", "make_standings"]


@dataclass(frozen=True)
class GroupScore:
    """What a group of users or items gets.

    Attributes:
      title: the group, in words.
      count: users, or held-out items of the first seed.
      score: mean over them and over seeds, a fraction; NaN where the group is empty.
      error: standard error of that mean, from the group's size.
    """

    title: str
    count: int
    score: float
    error: float


@dataclass(frozen=True, eq=False)
class Profile:
    """One contestant under one protocol, user by user.

    Attributes:
      run: of its first finished seed: the configuration, and how it is drawn.
      by_seed: finished seed -> [users] float64, NDCG@10 of each user; NaN without a held-out item.
      by_activity: NDCG@10 of users grouped by their training items, the lightest first.
      by_popularity: share of held-out items among the first 10, of head and of tail items.
    """

    run: Run
    by_seed: Mapping[int, np.ndarray]
    by_activity: tuple[GroupScore, ...]
    by_popularity: tuple[GroupScore, ...]

    @property
    def centralized(self) -> bool:
        """Whether one client holds all users' data: a reference, whose bytes say nothing."""
        return bool(self.run.config["data"]["clients"] == 1)

    def per_user(self, seeds: Sequence[int] | None = None) -> np.ndarray:
        """[users] float64, each user's NDCG@10 averaged over seeds; None: all finished ones."""
        chosen = list(self.by_seed) if seeds is None else seeds
        return np.mean([self.by_seed[seed] for seed in chosen], axis=0)


@dataclass(frozen=True, eq=False)
class Standings:
    """A comparison under one protocol.

    Attributes:
      protocol: "leak-free" or "published".
      metric: what orders and tests it: NDCG@10, over uni99 where there is that, else over all.
      seeds: those that every contestant was to run.
      frame: a row a contestant with a finished run, the best first. Columns: protocol, label,
        method, seeds (finished ones), rounds, best_round (mean), for every metric METRIC its mean
        over seeds at the best round by validation and "METRIC std" (sample standard deviation, NaN
        for one seed), uplink_bytes and downlink_bytes (of one client and round),
        uplink_bytes_to_best and downlink_bytes_to_best (of one client, all rounds up to the best),
        seconds_per_round (without compilation, evaluation and checkpoints), clients_per_second,
        client_state_values (numbers that the largest client keeps between rounds, optimizer
        moments included), download_values (numbers in its largest download, labels and indices
        included), difference (of the mean from the best's, over the seeds that both finished), p
        and p_holm (of that difference; NaN for the best, and where no seed is common).
      profiles: label -> profile, in the same order.
    """

    protocol: str
    metric: str
    seeds: tuple[int, ...]
    frame: pd.DataFrame
    profiles: Mapping[str, Profile]


def make_standings(
    protocol: str,
    seeds: Sequence[int],
    folders: Sequence[tuple[Contestant, Mapping[int, Path]]],
) -> Standings | None:
    """Reads finished runs and orders them.

    Args:
      protocol: theirs.
      seeds: those that were wanted.
      folders: every contestant with its finished seeds' run folders.

    Returns:
      The standings; None where nothing is finished.

    Raises:
      InputError: runs of other data among them, or a folder that cannot be read.
    """
    firsts: dict[int, tuple[UserRanks, Path]] = {}
    rows, profiles = [], {}
    metric = ""
    groups: dict[int, tuple[Groups, Groups]] = {}
    for contestant, by_seed in folders:
        if not by_seed:
            continue
        # Without the embeddings: those of all runs together may not fit the memory.
        runs = {s: replace(load_run(path), embeddings=None) for s, path in by_seed.items()}
        ranks = {}
        for seed, run in runs.items():
            ranks[seed] = load_user_ranks(run.path, run.best_round)
            first, where = firsts.setdefault(seed, (ranks[seed], run.path))
            if not _same_data(first, ranks[seed]):
                raise InputError(
                    f"{run.path} and {where} were run on other data under the same name: "
                    "name another --out, or delete these folders"
                )
            if seed not in groups:
                users, items = ranks[seed].train_items, ranks[seed].item_users
                groups[seed] = activity_groups(users), popularity_groups(items)
        ranking = "uni99" if all("uni99" in r.test for r in ranks.values()) else "full"
        metric = f"ndcg@{TOP_K}/{ranking}"
        profiles[contestant.label] = _profile(runs, ranks, ranking, groups)
        rows.append({"protocol": protocol, "label": contestant.label, **_row(list(runs.values()))})
    if not rows:
        return None
    # Of equal scores the one named first.
    frame = pd.DataFrame(rows).sort_values(metric, ascending=False, kind="stable")
    frame = _tested(frame.reset_index(drop=True), profiles)
    ordered = {label: profiles[label] for label in frame["label"]}
    return Standings(protocol, metric, tuple(seeds), frame, ordered)


def _same_data(first: UserRanks, second: UserRanks) -> bool:
    """Whether both have the same users, training sizes and held-out items: only then they pair.

    How users are grouped into clients may differ: a centralized reference has one client.
    """
    names = ("user_id", "train_items", "item_users", "test_items")
    return all(np.array_equal(getattr(first, n), getattr(second, n)) for n in names)


def _row(runs: Sequence[Run]) -> dict[str, object]:
    """What the seeds' runs come to."""
    row: dict[str, object] = {
        "method": runs[0].method,
        "seeds": len(runs),
        "rounds": int(np.max([run.rounds_done for run in runs])),
        "best_round": float(np.mean([run.best_round for run in runs])),
    }
    for name in runs[0].test:
        values = np.array([run.test[name] for run in runs], np.float64)  # None is NaN
        row[name] = float(values.mean())
        row[f"{name} std"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    for way in ("uplink", "downlink"):
        row[f"{way}_bytes"] = _mean([run.per_client_bytes(way) for run in runs])
        to_best = [run.total(f"{way}_bytes_to_best") for run in runs]
        clients = runs[0].config["data"]["clients"]
        row[f"{way}_bytes_to_best"] = _mean(to_best) / clients
    seconds = [r.summary["device_seconds"] + r.summary["host_seconds"] for r in runs]
    rounds = [run.summary["rounds"] for run in runs]
    row["seconds_per_round"] = _mean([s / n for s, n in zip(seconds, rounds, strict=True)])
    for key in ("clients_per_second", "client_state_values", "download_values"):
        row[key] = _mean([run.total(key) for run in runs])
    return row


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _profile(
    runs: Mapping[int, Run],
    ranks: Mapping[int, UserRanks],
    ranking: str,
    groups: Mapping[int, tuple[Groups, Groups]],
) -> Profile:
    by_seed = {seed: ndcg(r.test[ranking], TOP_K) for seed, r in ranks.items()}
    first = next(iter(ranks))
    users = groups[first][0]
    per_user = np.mean(list(by_seed.values()), axis=0)
    by_activity = []
    for group, title in enumerate(users.titles):
        mine = per_user[users.of == group]
        mine = mine[~np.isnan(mine)]
        error = mine.std(ddof=1) / math.sqrt(len(mine)) if len(mine) > 1 else math.nan
        score = float(mine.mean()) if len(mine) else math.nan
        by_activity.append(GroupScore(title, len(mine), score, float(error)))
    by_popularity = []
    for group, title in enumerate(groups[first][1].titles):
        hits = [_hits(r, ranking, groups[seed][1].of == group) for seed, r in ranks.items()]
        count = len(hits[0])
        known = [float(h.mean()) for h in hits if len(h)]
        score = float(np.mean(known)) if known else math.nan
        error = math.sqrt(score * (1 - score) / count) if count else math.nan
        by_popularity.append(GroupScore(title, count, score, error))
    return Profile(next(iter(runs.values())), by_seed, tuple(by_activity), tuple(by_popularity))


def _hits(ranks: UserRanks, ranking: str, chosen: np.ndarray) -> np.ndarray:
    """[held-out items of the chosen ones] bool, whether each is among the first 10."""
    items, found = ranks.test_items, ranks.test[ranking]
    mine = (items >= 0) & chosen[np.maximum(items, 0)]
    return found[mine] < TOP_K


def _tested(frame: pd.DataFrame, profiles: Mapping[str, Profile]) -> pd.DataFrame:
    """The frame with every contestant's difference from the best, and its p-values."""
    labels = frame["label"].tolist()
    best = profiles[labels[0]]
    differences, p_values = {labels[0]: 0.0}, {}
    for label in labels[1:]:
        other = profiles[label]
        common = [seed for seed in best.by_seed if seed in other.by_seed]
        if not common:
            continue
        gap = other.per_user(common) - best.per_user(common)
        gap = gap[~np.isnan(gap)]
        differences[label] = float(gap.mean())
        p_values[label] = sign_flip_p(gap)
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    for column, values in (("difference", differences), ("p", p_values), ("p_holm", corrected)):
        frame[column] = frame["label"].map(values).astype(float)
    return frame
