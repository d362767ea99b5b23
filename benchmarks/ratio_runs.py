"""Runs on the ratio split that several scripts share: one folder, so that none trains twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ratio_settings
import staged
from harness import Options, dataset

from fedjax_rec.data import Dataset, Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method

__all__ = ["RatioOptions", "check", "measure", "notes", "train_seeds"]

_TOY_ROUNDS = 4


@dataclass(frozen=True)
class RatioOptions(Options):
    """Options of the scripts that train on the ratio split.

    Attributes:
      seeds: of the runs, one run each: means and standard deviations are over them. (--seed is of
        the toy dataset only.)
      dim: d, where a script does not vary it.
      rounds: at most.
      stage: rounds between looks at the validation recall; every look costs a compilation.
      patience: stop when the best round is so many rounds ago.
      eval_every: rounds between evaluations.
      runs: folder of the runs' own artifacts: a benchmark that was stopped goes on from there, and
        takes what another script has trained with the same settings. With --toy, none.
    """

    seeds: tuple[int, ...] = (0,)
    dim: int = 512
    rounds: int = 200
    stage: int = 20
    patience: int = 30
    eval_every: int = 5
    runs: Path = Path("runs/ratio")


def check(options: RatioOptions) -> None:
    """Refuses what would fail only later.

    Raises:
      InputError: no seeds, one of them twice or negative, or stages that cannot be.
    """
    seeds = options.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(
            f"--seeds {' '.join(map(str, seeds))}: give one or more, each once, 0 or more"
        )
    _stages(options)


def measure(
    name: str,
    federation: str,
    options: RatioOptions,
    *,
    data: Dataset | None = None,
    dim: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Trains a method with every seed; returns its columns in a table.

    Args:
      name: one of `ratio_settings.METHODS`.
      federation: one of `ratio_settings.FEDERATIONS`.
      options: seeds, rounds and folder.
      data: the federation's dataset, where it is loaded already.
      dim: d; None: ``options.dim``.
      **changes: method options that win over the settings.
    """
    data = dataset(federation, options) if data is None else data
    dim = options.dim if dim is None else dim
    method = ratio_settings.build(name, federation, data, dim=dim, toy=options.toy, **changes)
    shown = " ".join([name, *(f"{option}={value}" for option, value in changes.items())])
    found = train_seeds(method, f"{name}-{federation}", options, lambda seed: data, label=shown)
    return {"d": getattr(method.config, "dim", None), **staged.over_seeds(found)}


def train_seeds(
    method: Method,
    name: str,
    options: RatioOptions,
    data: Callable[[int], Dataset | Problem],
    *,
    label: str,
) -> list[dict[str, Any]]:
    """Trains a method with every seed; returns `staged.figures` of each.

    Args:
      method: what to train.
      name: how the runs' folders begin.
      options: seeds, rounds and folder.
      data: seed -> what to train on. A problem's notes must say what sets it apart: runs on others
        are told apart by them.
      label: the runs' name in reports.
    """
    once = method.default_rounds == 1
    settings = dataclasses.asdict(method.config)
    found = []
    for seed in options.seeds:
        trained_on = data(seed)
        made = trained_on.notes if isinstance(trained_on, Problem) else ()
        # All that a folder may not mix: other settings are another run, not a conflict.
        identity = json.dumps([settings, options.eval_every, *made], sort_keys=True).encode()
        digest = hashlib.sha256(identity).hexdigest()[:10]
        folder = f"{name}-d{settings.get('dim', 0)}-seed{seed}-{digest}"
        result = staged.train(
            method,
            trained_on,
            staged.Stages(1) if once else _stages(options),
            seed=seed,
            label=label,
            out=None if options.toy else options.runs / folder,
            clients=10 if options.toy and "-943-" not in f"{name}-" else None,
            devices=options.devices,
        )
        found.append(staged.figures(result))
    return found


def notes(options: RatioOptions) -> list[str]:
    """What a reader must know of all tables that `measure` fills."""
    return [
        f"Full ranking, test, percent, at the best round by validation Recall@10 ('val Recall'); "
        f"at most {options.rounds} rounds, evaluated every {options.eval_every}, stopped once the "
        f"best is {options.patience} rounds ago. Settings: benchmarks/ratio_settings.py.",
        "Means over as many seeds as 'seeds' says (the split is the same); ±: sample standard "
        "deviation.",
        "MRR* and NDCG*: by FedCIA's release, as the papers' tables have them "
        "(fedjax_rec/evaluation/published.py).",
        "MB up, MB down: a client's mean a round, up to the best one.",
    ]


def _stages(options: RatioOptions) -> staged.Stages:
    if options.toy:
        return staged.Stages(min(options.rounds, _TOY_ROUNDS))
    return staged.Stages(
        options.rounds,
        stage=options.stage,
        patience=options.patience,
        eval_every=options.eval_every,
    )
