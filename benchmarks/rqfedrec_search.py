"""The search behind `ratio_settings.py`, on validation only, with one seed.

First a grid over learning rate and weight decay for each method, then single changes to the best of
the grid: of RQFedRec what the paper leaves open, of FedMF and local MF what they share with it, so
that no method is tuned less than another. A trial stops once its validation recall has not risen
for a while. Test figures are not looked at here: `rqfedrec_quality.py` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import ratio_settings
import trials
from harness import Options, Table, dataset, main
from ratio_settings import FEDERATIONS, SETTINGS

from fedjax_rec.data import Dataset, Problem, make_problem
from fedjax_rec.errors import InputError

__all__ = ["LEARNING_RATES", "SINGLES", "WEIGHT_DECAYS", "SearchOptions", "run"]

LEARNING_RATES = (0.01, 0.02)
WEIGHT_DECAYS = (0.0, 1e-5, 3e-5, 1e-4)

_MINILM = "$FEDJAX_REC_DATA/ml-100k/semantic_minilm_384.npz"
SINGLES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "rqfedrec": (
        {"without": "semantic", "recode_every": 5},
        {"warmup": 100},
        {"semantics": _MINILM},
        {"distinct_codes": False},
        {"code_components": 0},
        {"fit": "joint"},
        {"fit_steps": 50},
        {"codewords": 512},
        {"without": "item-embeddings"},
        {"local_epochs": 4},
        {"init_std": 0.1},
        {"fit_solver": "adam", "fit_steps": 100},
        {"fit_items": "each"},
    ),
    "fedmf": ({"init_std": 0.1}, {"local_epochs": 4}, {"negatives": 1}, {"keep_optimizer": True}),
    "local-mf": ({"init_std": 0.1}, {"local_epochs": 4}, {"keep_optimizer": True}),
}
"""Method -> changes to the best of its grid, one trial each."""


@dataclass(frozen=True)
class SearchOptions(Options):
    """Options of the search.

    Attributes:
      methods: which to tune: rqfedrec, fedmf, local-mf.
      federation: where.
      dim: d. 64 screens the space in a twentieth of the time of the papers' 512.
      singles: whether to try single changes to the best of the grid.
      rounds: at most, a trial.
      patience: stop a trial when its best round is so many rounds ago.
      eval_every: rounds between evaluations.
      trials: the file of what trials found; the search goes on from it. With --toy, none.
      retry_failed: run trials again that failed before.
    """

    methods: tuple[str, ...] = tuple(SINGLES)
    federation: str = "ml-100k-ratio"
    dim: int = 512
    singles: bool = True
    rounds: int = 120
    patience: int = 25
    eval_every: int = 5
    trials: Path = Path("runs/rqfedrec_search.jsonl")
    retry_failed: bool = False


class _Search:
    """The trials of one call."""

    def __init__(self, options: SearchOptions, table: Table, data: Dataset) -> None:
        self.options = options
        self.table = table
        self.data = data
        self.problem: Problem = make_problem(
            data, split="ratio", clients=10 if options.toy else None, seed=options.seed
        )
        self.budget = trials.Budget(options.rounds, options.patience, options.eval_every)
        self.log = trials.TrialLog(
            None if options.toy else options.trials, retry_failed=options.retry_failed
        )

    def trial(self, kind: str, name: str, changes: Mapping[str, Any]) -> float | None:
        """Runs a trial and adds its row; returns its validation recall, None where it failed."""
        options = self.options
        method = ratio_settings.build(
            name, options.federation, self.data, dim=options.dim, toy=options.toy, **changes
        )
        key = trials.identity(method, options.federation, self.budget, seed=options.seed)
        found = self.log.run(
            key,
            lambda: trials.validate(
                method,
                self.problem,
                self.budget,
                seed=options.seed,
                devices=options.devices,
            ),
        )
        self.table.add(
            method=name,
            kind=kind,
            trial=_text(changes),
            **{
                column: found.get(column)
                for column in ("val Recall", "val NDCG", "best", "rounds", "s/round")
            },
            error=found.get("error"),
        )
        return found.get("val Recall")


def run(options: SearchOptions) -> Table:
    """Runs the trials; one row each, the best first."""
    for option, chosen, known in (
        ("methods", options.methods, tuple(SINGLES)),
        ("federation", (options.federation,), tuple(FEDERATIONS)),
    ):
        if unknown := [value for value in chosen if value not in known]:
            raise InputError(f"--{option} {' '.join(unknown)}: choose from {', '.join(known)}")
    table = Table(
        "rqfedrec_search", f"{FEDERATIONS[options.federation]}, VALIDATION (percent)", options
    )
    search = _Search(options, table, dataset(options.federation, options))
    for name in options.methods:
        points = list(product(LEARNING_RATES, WEIGHT_DECAYS))
        grid = {
            (rate, decay): search.trial(
                "grid", name, {"lr": rate, "item_lr": rate, "weight_decay": decay}
            )
            for rate, decay in (points[-1:] if options.toy else points)
        }
        finished = {point: found for point, found in grid.items() if found is not None}
        if not finished:
            table.note(f"{name}: every trial of the grid failed")
            continue
        rate, decay = max(finished, key=lambda point: finished[point])
        table.note(f"{name}: the best of the grid is learning rate {rate:g}, decay {decay:g}")
        best = {"lr": rate, "item_lr": rate, "weight_decay": decay}
        singles = SINGLES[name] if options.singles else ()
        for changes in singles[-1:] if options.toy else singles:
            search.trial("single", name, {**best, **changes})
    table.rows.sort(key=lambda row: -1.0 if row["val Recall"] is None else row["val Recall"])
    table.rows.reverse()
    for name in options.methods:
        first = next((row for row in table.rows if row["method"] == name), None)
        if first is not None and first["val Recall"] is not None:
            table.note(f"{name}: the best of all, {first['val Recall']:.2f}, is {first['trial']}")
    table.note(
        f"d = {options.dim}; all else as in benchmarks/ratio_settings.py: "
        + "; ".join(f"{name} {_text(SETTINGS[name])}" for name in options.methods)
    )
    table.note(
        f"One seed; at most {options.rounds} rounds, evaluated every {options.eval_every}, stopped "
        f"{options.patience} after the best. 's/round' has evaluation and compilation in it."
    )
    return table


def _text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


if __name__ == "__main__":
    main(SearchOptions, run, __doc__ or "")
