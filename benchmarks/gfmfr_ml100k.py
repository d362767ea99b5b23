"""GFMFR's fusion on ML-100K: each backbone with and without it, several seeds, leak-free.

Items are known by the supplied sentence vectors of their titles and genres. Read where a user would
read: the test figures of the best round by validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Options, Table, dataset, main, metrics_at

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods.presets import preset_options

__all__ = ["BACKBONES", "FusionOptions", "run"]

BACKBONES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "GFMFR": ("gfmfr", {}),
    "GFMFR, scored by the network": ("gfmfr", {"scorer": "network"}),
    "FedRAP": ("fedrap", {}),
    "FedRAP, tuned": ("fedrap", preset_options("fedrap", "leak-free")),
    "PFedRec": ("pfedrec", {}),
    "FedMF": ("fedmf", {}),
    "FedNCF": ("fedncf", {}),
}
"""Row -> (method, its options); all else is the method's default. Tuned: its leak-free preset."""

_METRICS = {"HR@10": "hr@10/uni99", "NDCG@10": "ndcg@10/uni99", "HR@10 full": "hr@10/full"}


@dataclass(frozen=True)
class FusionOptions(Options):
    """Options of the fusion figures.

    Attributes:
      backbones: which rows, by the names in the table.
      seeds: runs of each, with seeds seed, seed + 1, ….
      rounds: rounds of each; also T of the fusion's schedule.
      modality: NAME=SOURCE, what the items are like.
      weights: of the KL term, a row each.
      eval_every: evaluate every N rounds.
      runs: folder of the runs' own artifacts: a benchmark that was stopped goes on from there.
        With --toy, none.
    """

    backbones: tuple[str, ...] = ("PFedRec", "FedMF", "FedRAP, tuned", "GFMFR")
    seeds: int = 3
    rounds: int = 40
    modality: tuple[str, ...] = ("text=../shared/data/ml-100k/semantic_minilm_384.npz",)
    weights: tuple[float, ...] = (1.0, 0.1)
    eval_every: int = 2
    runs: Path = Path("runs/gfmfr_ml100k")


def run(options: FusionOptions) -> Table:
    """Runs all of it; one row a backbone without fusion, and one with it for each weight."""
    for name in options.backbones:
        if name not in BACKBONES:
            raise InputError(f"--backbones {name!r}: choose from {', '.join(BACKBONES)}")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds} must be at least 1")
    table = Table("gfmfr_ml100k", "GFMFR's fusion, ML-100K, leak-free, test (percent)", options)
    for name in options.backbones:
        alone = _seeds(name, None, options)
        table.add(**_row(name, None, alone, alone))
        for weight in options.weights:
            table.add(**_row(name, weight, _seeds(name, weight, options), alone))
    table.note(
        f"Mean ± standard deviation of {options.seeds} seeds; Δ: mean of the seeds' differences "
        "from the backbone without fusion, ± its standard error. Chance is 10.0 / 4.5."
    )
    table.note("Test figures at the best round by validation HR@10.")
    return table


def _seeds(name: str, weight: float | None, options: FusionOptions) -> list[dict[str, float]]:
    """The figures of every seed of a backbone, with the fusion's weight or without fusion."""
    return [_once(name, weight, options.seed + k, options) for k in range(options.seeds)]


def _once(name: str, weight: float | None, seed: int, options: FusionOptions) -> dict[str, float]:
    method, settings = BACKBONES[name]
    fusion: dict[str, Any] = {"fusion": "none"}
    if weight is not None:
        modality = ("text=text",) if options.toy else options.modality
        fusion = {
            "fusion": "gfmfr",
            "modality": modality,
            "fusion_weight": weight,
            "fusion_rounds": options.rounds,
        }
    label = f"{name}-{'alone' if weight is None else weight}-seed{seed}"
    folder = label.replace(" ", "-").replace(",", "")
    result = fedjax_rec.simulate(
        methods.build(method, **settings, **fusion),
        dataset("ml-100k", options),
        rounds=options.rounds,
        seed=seed,
        eval_every=options.eval_every,
        devices=options.devices,
        out=None if options.toy else options.runs / folder,
        label=label,
        resume=not options.toy,
        report=False,
        progress=False,
    )
    best = int(result.summary["best_round"])
    found = metrics_at(result.history, best)
    timings = result.timings.iloc[1:]  # the first round compiles
    return {
        **{shown: 100 * float(found[key]) for shown, key in _METRICS.items()},
        "best round": best,
        "error": float(found.get("fusion_error", np.nan)),
        "s/round": float((timings["seconds"] - timings["eval_seconds"]).mean()),
        "kB up": float(found["uplink_bytes"]) / 1e3,
        "kB down": float(found["downlink_bytes"]) / 1e3,
    }


def _row(
    name: str, weight: float | None, found: list[dict[str, float]], alone: list[dict[str, float]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"backbone": name, "fusion": "–" if weight is None else f"{weight:g}"}
    for metric in _METRICS:
        values = np.array([one[metric] for one in found])
        row[metric] = float(values.mean())
        row[f"± {metric}"] = _deviation(values)
    gains = [one["HR@10"] - other["HR@10"] for one, other in zip(found, alone, strict=True)]
    spread = _deviation(np.array(gains))
    row["Δ HR@10"] = None if weight is None else float(np.mean(gains))
    row["± Δ"] = None if weight is None or spread is None else spread / len(gains) ** 0.5
    row["best rounds"] = " ".join(str(int(one["best round"])) for one in found)
    row["fusion error"] = None if weight is None else float(np.mean([x["error"] for x in found]))
    for column in ("s/round", "kB up", "kB down"):
        row[column] = float(np.mean([one[column] for one in found]))
    return row


def _deviation(values: np.ndarray) -> float | None:
    """Of a sample; None of one value, which has none."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


if __name__ == "__main__":
    main(FusionOptions, run, __doc__ or "")
