"""Training in stages: look at the validation recall, stop when it no longer rises, resume."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from harness import median, metrics_at, round_seconds

import fedjax_rec
from fedjax_rec.data import Dataset, Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import EvaluateAt, Method
from fedjax_rec.simulation.checkpoint import Checkpoints

__all__ = ["Stages", "figures", "over_seeds", "train"]

_METRICS = {
    "Recall@10": "recall@10/full",
    "MRR@10": "mrr@10/full",
    "NDCG@10": "ndcg@10/full",
    "precision@10": "precision@10/full",
    "F1@10": "f1@10/full",
    "MRR*@10": "mrr@10/full-published",
    "NDCG*@10": "ndcg@10/full-published",
}
# What tables quote with its spread; the rest has a mean only, to keep tables readable.
_SPREAD = ("Recall@10", "MRR@10", "NDCG@10", "MRR*@10", "NDCG*@10")


@dataclass(frozen=True)
class Stages:
    """How long a run goes on.

    Attributes:
      rounds: at most.
      stage: rounds between looks at the validation recall. Every stage resumes the run, which
        compiles it anew: short stages stop sooner, and cost more.
      patience: stop when the best round is so many rounds ago.
      eval_every: rounds between evaluations.

    Raises:
      InputError: a number below 1, or stages that do not end with an evaluation.
    """

    rounds: int
    stage: int = 1
    patience: int = 1
    eval_every: int = 1

    def __post_init__(self) -> None:
        for name in ("rounds", "stage", "patience", "eval_every"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)} must be 1 or more")
        if self.stage % self.eval_every:
            raise InputError(
                f"--stage {self.stage} must be a multiple of --eval-every {self.eval_every}"
            )


def train(
    method: Method,
    data: Dataset | Problem,
    stages: Stages,
    *,
    seed: int,
    label: str,
    out: Path | None,
    clients: int | None = None,
    evaluate_at: EvaluateAt = "download",
    devices: int | None = None,
) -> fedjax_rec.Result:
    """Trains on the ratio split until validation says stop.

    Args:
      method: what to train.
      data: a dataset, split here; or a problem, whose split and clients stay.
      stages: when to look, and when to stop.
      seed: of the run.
      label: the run's name in reports.
      out: the run's folder, where a run that was stopped goes on; None: nothing is kept to go on
        from, so it runs through all its rounds.
      clients: how many clients the users are grouped into; None: as the dataset says.
      evaluate_at: "download" or "trained".
      devices: host devices.

    Returns:
      The result of the last stage, which has the whole history.
    """
    step = stages.rounds if out is None else stages.stage
    rounds = min(_first_stage(out, step), stages.rounds)
    while True:
        result = fedjax_rec.simulate(
            method,
            data,
            rounds=rounds,
            split="ratio",
            clients=clients,
            seed=seed,
            eval_every=stages.eval_every,
            evaluate_at=evaluate_at,
            devices=devices,
            out=out,
            resume=out is not None,
            progress=False,
            label=label,
        )
        best = int(result.summary["best_round"])
        if rounds >= stages.rounds or rounds - best >= stages.patience:
            return result
        rounds = min(rounds + step, stages.rounds)


def figures(result: fedjax_rec.Result) -> dict[str, Any]:
    """A run's columns in a table: test metrics (percent) at the best round by validation recall.

    Bytes are a client's mean a round up to the best one: what travels may change from round to
    round. Seconds are the median of the rounds, compilation and evaluation left out.
    """
    best = int(result.summary["best_round"])
    found = metrics_at(result.history, best)
    participations = best * int(found["clients"])
    return {
        "best": best,
        "rounds": int(result.summary["rounds"]),
        "val Recall": 100 * _validation(result.history, best),
        **{column: 100 * float(found[key]) for column, key in _METRICS.items()},
        "MB up": float(found["uplink_bytes_total"]) / participations / 1e6,
        "MB down": float(found["downlink_bytes_total"]) / participations / 1e6,
        "s/round": median(round_seconds(result.timings, skip=0)),
    }


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the runs of several seeds, and sample standard deviations, "±", of test metrics.

    Args:
      runs: `figures` of one run a seed; at least one.
    """
    row: dict[str, Any] = {"seeds": len(runs)}
    for column in runs[0]:
        values = [run[column] for run in runs]
        row[column] = values[0] if len(runs) == 1 else math.fsum(values) / len(values)
        if column in _SPREAD:
            row[f"± {column}"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def _validation(history: pd.DataFrame, round_: int) -> float:
    rows = history[(history["split"] == "val") & (history["round"] == round_)]
    return float(rows["recall@10/full"].iloc[-1])


def _first_stage(out: Path | None, step: int) -> int:
    """The end of the stage that a run on disk is in: its checkpoint may lie beyond the first."""
    reached = None if out is None else Checkpoints(out / "checkpoints").latest_round()
    return max(step, -(-(reached or 0) // step) * step)
