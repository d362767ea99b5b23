"""An AlignFedRec round beside a CGFedRec round with the same local steps, its uplink told apart.

Both compute one pass over all pairs of items a step: CGFedRec for the contrastive loss,
AlignFedRec for that and the alignment to the global similarities at once. AlignFedRec's round then
forms every client's thresholded similarity matrix, which CGFedRec has no counterpart of; the row
without uplink leaves just that out. Rounds alternate, so that a machine that slows down in between
slows all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from harness import Options, Table, dataset, main, median

import fedjax_rec
from fedjax_rec.data import make_problem
from fedjax_rec.methods import Method
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine, State
from fedjax_rec.tiles import grid
from fedjax_rec.uplink import Similarities, SimilaritySum

__all__ = ["StructureOptions", "run"]


@dataclass(frozen=True)
class StructureOptions(Options):
    """Options of this benchmark.

    Attributes:
      turns: timed rounds of each method, after two that compile.
      dim: d of both.
      local_epochs: of both.
    """

    turns: int = 3
    dim: int = 64
    local_epochs: int = 1


def run(options: StructureOptions) -> Table:
    """Times the forms in turns; one row each."""
    table = Table("structure_speed", "One round with pairwise losses, ML-100K", options)
    problem = make_problem(dataset("ml-100k", options), seed=options.seed)
    mesh = client_mesh(options.devices)
    common: dict[str, Any] = {
        "dim": options.dim,
        "local_epochs": options.local_epochs,
        "optimizer": "adam",
        "lr": 1e-3,
        "item_lr": 1e-3,
        "init_std": 0.1,
    }
    align = fedjax_rec.methods.alignfedrec
    clusters = 12 if options.toy else 60
    forms = {
        "CGFedRec": fedjax_rec.methods.cgfedrec(clusters=clusters, **common),
        "AlignFedRec": align(**common),
        "AlignFedRec without its uplink": _silent(align(**common)),
    }
    engines = {name: Engine(method, problem, mesh) for name, method in forms.items()}
    states: dict[str, State] = {name: engine.initial_state() for name, engine in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    hosts: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(1, options.turns + 3):  # in the first there is nothing to align to yet
        for name, engine in engines.items():
            states[name], outcome = engine.run_round(states[name], number)
            if number > 2:
                seconds[name].append(outcome.seconds.device)
                hosts[name].append(outcome.seconds.host)
    base = median(seconds["CGFedRec"])
    for name in forms:
        table.add(
            **{
                "form": name,
                "device s": median(seconds[name]),
                "min–max": f"{min(seconds[name]):.2f}–{max(seconds[name]):.2f}",
                "of CGFedRec": median(seconds[name]) / base,
                "target": 1.3 if name == "AlignFedRec without its uplink" else None,
                "host s": median(hosts[name]),
            }
        )
    table.note(
        f"d = {options.dim}, {options.local_epochs} local epochs, Adam, {problem.num_clients} "
        f"clients; medians of {options.turns} rounds each, compilation outside."
    )
    table.note("Host: k-means, or the graph of M_g and its communities.")
    return table


def _silent(method: Method) -> Method:
    """The method with an upload that nobody forms: what its training alone takes."""

    def reduce(acc: SimilaritySum | None, uploads: Similarities, weights: jax.Array) -> Any:
        if acc is None:
            acc = SimilaritySum(jnp.zeros(grid(uploads.unit.shape[1]).shape), jnp.float32(0))
        acc = acc._replace(weight=acc.weight + jnp.sum(weights))
        return acc, jnp.zeros(len(weights), jnp.int32)

    return method._replace(reduce=reduce)


if __name__ == "__main__":
    main(StructureOptions, run, __doc__ or "")
