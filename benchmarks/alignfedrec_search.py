"""A random search for AlignFedRec settings that work leak-free on ML-100K, on validation only.

Every trial draws its settings from the space below, trains for a few rounds, and is judged by its
best validation HR@10 over uni99. The defaults of the write-up, those with a small start, and the
presets (which single changes by hand had led to) are trials too. Test figures are not looked at
here: `alignfedrec_ml100k.py` has them, for the preset that came out of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Options, Table, dataset, main

import fedjax_rec
from fedjax_rec.methods import PRESETS
from fedjax_rec.simulation.record import selection_metric

__all__ = ["SPACE", "SearchOptions", "run"]

SPACE: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 1e-2, 1e-1),
    "item_lr": (1e-3, 1e-2),
    "init_std": (1e-4, 1e-2),
    "threshold": (0.3, 0.5),
    "graph_threshold": (0.03, 0.06, 0.08, 0.12),
    "contrast_weight": (0.005, 0.05, 0.5),
    "alignment_weight": (0.0, 1e-6, 1e-4),
    "center": (False, True),
    "negatives": (1, 2),
    "local_epochs": (1, 3),
}
"""What is searched, around what single changes to the write-up's settings showed first: cosines of
a large random start drown what clients learn; a graph threshold of σ leaves no edges, since few
clients know both items of a pair; and β = 5 leaves BCE no say, since L_GSA is a sum over pairs."""


@dataclass(frozen=True)
class SearchOptions(Options):
    """Options of the search.

    Attributes:
      trials: random draws from the space, beside the fixed ones.
      thresholds: other σ that each preset is tried with.
      rounds: rounds a trial.
      dim: d; half of the default, to afford twice the trials.
      batch_size: large, so that a local epoch is one step for most clients, and cheap.
      runs: folder of the trials' own artifacts: a search that was stopped goes on from there.
        With --toy, none.
    """

    trials: int = 7
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.8, 0.9)
    rounds: int = 4
    dim: int = 32
    batch_size: int = 1024
    runs: Path = Path("runs/alignfedrec_search")


def run(options: SearchOptions) -> Table:
    """Runs the trials; one row each, in the order in which they were drawn."""
    table = Table(
        "alignfedrec_search", "AlignFedRec, ML-100K, leak-free, VALIDATION (percent)", options
    )
    data = dataset("ml-100k", options)
    trials: list[tuple[str, dict[str, Any]]] = [
        ("write-up", {}),
        ("write-up, std 0.01", {"init_std": 0.01}),
    ]
    for name, preset in PRESETS["alignfedrec"].items():
        trials.append((f"preset {name}", dict(preset)))
        for threshold in options.thresholds:
            trials.append((f"preset {name}, σ {threshold}", {**preset, "threshold": threshold}))
    trials += [(f"draw {n}", draw(n, options.seed)) for n in range(options.trials)]
    for name, settings in trials:
        table.add(**_trial(name, settings, data, options))
    best = max(table.rows, key=lambda row: row["val HR@10"])
    table.note(f"best on validation: {best['trial']}")
    table.note(
        f"{options.rounds} rounds a trial, d = {options.dim}, batches of {options.batch_size}, "
        "one seed; popularity has 43.5 here, chance is 10."
    )
    return table


def draw(number: int, seed: int) -> dict[str, Any]:
    """The settings of a random trial; the same for the same number and seed."""
    rng = np.random.default_rng([seed, number])
    return {name: choices[rng.integers(len(choices))] for name, choices in SPACE.items()}


def _trial(
    name: str, settings: dict[str, Any], data: fedjax_rec.data.Dataset, options: SearchOptions
) -> dict[str, Any]:
    sizes = {"dim": options.dim, "batch_size": options.batch_size}
    method = fedjax_rec.methods.alignfedrec(**sizes | settings)
    result = fedjax_rec.simulate(
        method,
        data,
        rounds=options.rounds,
        seed=options.seed,
        devices=options.devices,
        out=None if options.toy else options.runs / name.replace(", ", "-").replace(" ", "-"),
        label=name,
        resume=not options.toy,
        report=False,
        progress=False,
    )
    metric = selection_metric(result.problem)
    rows = result.history[result.history["split"] == "val"].set_index("round")
    best = int(result.summary["best_round"])
    config = method.config
    return {
        "trial": name,
        "val HR@10": 100 * rows.loc[best, metric],
        "val NDCG@10": 100 * rows.loc[best, "ndcg@10/uni99"],
        "round": best,
        "last HR@10": 100 * rows[metric].iloc[-1],
        "communities": int(rows.loc[best, "communities"]),
        "uplink MB": rows.loc[best, "uplink_bytes"] / 1e6,
        **{key: getattr(config, key) for key in SPACE},
    }


if __name__ == "__main__":
    main(SearchOptions, run, __doc__ or "")
