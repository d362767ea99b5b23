"""What a run writes down: metric rows, and the summary of its best round."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

from fedjax_rec.data import Problem
from fedjax_rec.evaluation import (
    f1,
    hit_ratio,
    mean,
    mrr,
    mrr_published,
    ndcg,
    ndcg_published,
    precision,
    recall,
)
from fedjax_rec.evaluation.ranks import TOP_K
from fedjax_rec.simulation.engine import Outcome
from fedjax_rec.simulation.ledger import Ledger
from fedjax_rec.simulation.seconds import Seconds

__all__ = ["json_number", "metric_rows", "selection_metric", "selection_value", "summarize"]

_SAMPLED = {"hr": hit_ratio, "ndcg": ndcg}
_FULL = {
    "hr": hit_ratio,
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "mrr": mrr,
}
_PUBLISHED = {"ndcg": ndcg_published, "mrr": mrr_published}
_SPLITS = {"val": "validation", "test": "test"}


def selection_metric(problem: Problem) -> str:
    """The validation metric that names the best round."""
    return f"hr@{TOP_K}/uni99" if problem.split == "loo" else f"recall@{TOP_K}/full"


def selection_value(row: dict[str, Any], problem: Problem) -> float:
    """By what a validation row is chosen as the best; -inf where its metric is not known."""
    value = row[selection_metric(problem)]
    return -math.inf if value is None else value


def metric_rows(
    round_: int,
    outcome: Outcome,
    problem: Problem,
    ledger: Ledger,
    spent: Seconds,
    extra: dict[str, Any],
) -> list[dict[str, Any]]:
    """The two lines of ``metrics.jsonl`` of an evaluated round, validation and test.

    Args:
      round_: the round.
      outcome: its outcome, with ranks.
      problem: what was trained on.
      ledger: totals so far, this round included.
      spent: wall time since the previous evaluated round.
      extra: more keys, such as "cluster_sizes".
    """
    assert outcome.ranks is not None
    shared = {
        "train_loss": outcome.train_loss,
        "clients": outcome.participants,
        "uplink_bytes": outcome.bytes.up,
        "downlink_bytes": outcome.bytes.down,
        "uplink_bytes_total": ledger.up,
        "downlink_bytes_total": ledger.down,
        **extra,
        "seconds": spent.total,
        "compile_seconds": spent.compile,
        "device_seconds": spent.device,
        "host_seconds": spent.host,
        "eval_seconds": spent.evaluation,
    }
    return [
        {"round": round_, "split": split, **_metrics(outcome.ranks, problem, name), **shared}
        for split, name in _SPLITS.items()
    ]


def summarize(
    history: list[dict[str, Any]],
    problem: Problem,
    *,
    rounds: int,
    seconds: Seconds,
    trained_clients: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The metrics part of ``summary.json``.

    The best round is the one with the highest validation metric, the earliest on a tie; test
    metrics are read there and nowhere else.

    Args:
      history: all metric rows.
      problem: what was trained on.
      rounds: rounds done.
      seconds: total wall time by where it went.
      trained_clients: participations, summed over rounds.
      wall_seconds: wall time of all, checkpoints and preparation included.
    """
    metric = selection_metric(problem)
    validation = {row["round"]: row for row in history if row["split"] == "val"}
    test = {row["round"]: row for row in history if row["split"] == "test"}
    best = max(validation, key=lambda r: (selection_value(validation[r], problem), -r))
    last = max(test)

    def metrics(row):
        return {k: v for k, v in row.items() if "@" in k}

    return {
        "rounds": rounds,
        "best_round": best,
        "selection": metric,
        "validation": metrics(validation[best]),
        "test": metrics(test[best]),
        "final_test": metrics(test[last]),
        "uplink_bytes_total": test[last]["uplink_bytes_total"],
        "downlink_bytes_total": test[last]["downlink_bytes_total"],
        "uplink_bytes_to_best": test[best]["uplink_bytes_total"],
        "downlink_bytes_to_best": test[best]["downlink_bytes_total"],
        "clients_per_second": trained_clients / seconds.device if seconds.device else None,
        "wall_seconds": wall_seconds,
        "compile_seconds": seconds.compile,
        "device_seconds": seconds.device,
        "host_seconds": seconds.host,
        "eval_seconds": seconds.evaluation,
        "peak_rss_bytes": _peak_rss(),
    }


def json_number(value: float | int | None) -> float | int | None:
    """The value as JSON has it: None for what is not finite (there is no NaN in JSON)."""
    return value if value is not None and math.isfinite(value) else None


def _metrics(ranks, problem, split):
    def means(metrics, *arguments, ranking):
        return {
            f"{name}@{TOP_K}/{ranking}": json_number(mean(metric(*arguments)))
            for name, metric in metrics.items()
        }

    out: dict[str, Any] = {}
    if f"{split}_sampled" in ranks:
        out |= means(_SAMPLED, ranks[f"{split}_sampled"], TOP_K, ranking="uni99")
    out |= means(_FULL, ranks[f"{split}_full"], TOP_K, ranking="full")
    if f"{split}_top" in ranks:
        held_out = getattr(problem, split).padded()
        out |= means(_PUBLISHED, ranks[f"{split}_top"], held_out, ranking="full-published")
    return out


def _peak_rss():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
