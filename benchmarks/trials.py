"""Trials of a search: one training run each, judged by validation alone, written down once."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import mean, ndcg, recall
from fedjax_rec.evaluation.ranks import TOP_K
from fedjax_rec.methods import Method
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine

__all__ = ["Budget", "TrialLog", "identity", "validate"]


@dataclass(frozen=True)
class Budget:
    """How long a trial may go on.

    Attributes:
      rounds: at most.
      patience: stop when the best round is so many rounds ago.
      eval_every: rounds between evaluations.

    Raises:
      InputError: a number below 1.
    """

    rounds: int
    patience: int
    eval_every: int

    def __post_init__(self) -> None:
        for name in ("rounds", "patience", "eval_every"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)} must be 1 or more")


def validate(
    method: Method, problem: Problem, budget: Budget, *, seed: int, devices: int | None = None
) -> dict[str, Any]:
    """Trains until the validation recall stops rising. Test items are not looked at.

    Args:
      method: what to train.
      problem: a ratio split.
      budget: when to stop.
      seed: of the run.
      devices: host devices.

    Returns:
      "val Recall" and "val NDCG" (percent, of the best round), "best" and "rounds", "s/round"
      (evaluation and compilation included, a mean).

    Raises:
      InputError: options that do not fit the problem.
      TrainingError: training diverged.
    """
    engine = Engine(method, problem, client_mesh(devices), seed=seed)
    state = engine.initial_state()
    start = time.perf_counter()
    best: dict[str, Any] = {}
    for number in range(1, budget.rounds + 1):
        evaluate = number % budget.eval_every == 0 or number == budget.rounds
        state, outcome = engine.run_round(state, number, evaluate=evaluate)
        if not evaluate:
            continue
        assert outcome.ranks is not None
        ranks = outcome.ranks["validation_full"]
        found = 100 * float(mean(recall(ranks, TOP_K)))
        if not best or found > best["val Recall"]:
            best = {
                "val Recall": found,
                "val NDCG": 100 * float(mean(ndcg(ranks, TOP_K))),
                "best": number,
            }
        if number - best["best"] >= budget.patience:
            break
    return {**best, "rounds": number, "s/round": (time.perf_counter() - start) / number}


def identity(method: Method, data: str, budget: Budget, *, seed: int) -> dict[str, Any]:
    """All that decides what a trial finds, but for the program itself, as JSON has it."""
    config = dataclasses.asdict(method.config)
    made = {"data": data, "method": method.name, "seed": seed}
    return json.loads(json.dumps({**made, **dataclasses.asdict(budget), "options": config}))


class TrialLog:
    """What trials found, a JSON line each, so that a search that was stopped goes on.

    A trial that failed is written down too, with the reason, and is not tried again.

    Args:
      path: the file; created with the first trial. None: nothing is kept.
      retry_failed: try those again that failed before.

    Raises:
      InputError: a line of the file that is not a trial.
    """

    def __init__(self, path: Path | None, *, retry_failed: bool = False) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines.pop():  # no line break at its end: the writer was killed
            os.truncate(path, sum(len(line.encode()) + 1 for line in lines))
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                key, found = entry["trial"], entry["found"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}:{number}: no trial ({error}): delete the line, and it is run again"
                ) from error
            if "error" not in found or not retry_failed:
                self._known[_key(key)] = found

    def run(self, trial: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a trial found: from the log, or by doing the work.

        Args:
          trial: its `identity`.
          work: finds the figures.

        Returns:
          Its figures; {"error": one line} where it failed.
        """
        key = _key(trial)
        if key not in self._known:
            try:
                found = work()
            # RuntimeError: TrainingError, and what XLA raises, such as for want of memory.
            except (InputError, RuntimeError) as error:
                found = {"error": " ".join(str(error).split())[:300]}
            self._known[key] = found
            self._append({"trial": trial, "found": found})
        return self._known[key]

    def _append(self, entry: dict[str, Any]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")


def _key(trial: Mapping[str, Any]) -> str:
    return json.dumps(trial, sort_keys=True)
