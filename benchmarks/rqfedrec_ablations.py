"""What each part of RQFedRec is worth: the paper's ablations, and other choices for its parts.

One method with its settings, and the same with one thing changed. Beside the table a bar chart, as
the paper's figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ratio_runs
import rqfedrec_figures
from harness import Table, dataset, main
from ratio_runs import RatioOptions
from ratio_settings import FEDERATIONS

from fedjax_rec.errors import InputError

__all__ = ["VARIANTS", "AblationOptions", "run"]

FULL = "RQFedRec"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    FULL: ("full", {}),
    # Of the paper.
    "w/o codebooks": ("left out", {"without": "codebooks"}),
    "w/o collaborative": ("left out", {"without": "collaborative"}),
    "w/o semantic": ("left out", {"without": "semantic"}),
    "fixed collaborative": ("left out", {"fix_collaborative": True}),
    "w/o item embeddings": ("left out", {"without": "item-embeddings"}),
    # Other ways of doing the same.
    "hash codes": ("instead", {"codebook": "hash"}),
    "RQ-VAE codes": ("instead", {"codebook": "rq-vae"}),
    "weighting touched": ("instead", {"weighting": "touched"}),
    "fit by Adam": ("instead", {"fit_solver": "adam"}),
}
"""Variant -> (kind, options that differ from the settings)."""


@dataclass(frozen=True)
class AblationOptions(RatioOptions):
    """Options of the ablations.

    Attributes:
      federation: where: ml-100k-ratio, ml-100k-ratio-943; ml-1m-ratio with its title file.
      variants: which, by name; by default all. RQFedRec itself always runs.
    """

    federation: str = "ml-100k-ratio"
    variants: tuple[str, ...] = tuple(VARIANTS)


def run(options: AblationOptions) -> Table:
    """Runs every variant; one row each. Draws the chart beside the table."""
    ratio_runs.check(options)
    if options.federation not in FEDERATIONS:
        raise InputError(f"--federation {options.federation}: choose from {', '.join(FEDERATIONS)}")
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        raise InputError(
            f"--variants {', '.join(map(repr, unknown))}: choose from "
            f"{', '.join(map(repr, VARIANTS))}"
        )
    table = Table(
        "rqfedrec_ablations",
        f"RQFedRec without its parts, {FEDERATIONS[options.federation]}",
        options,
    )
    data = dataset(options.federation, options)
    for name, (kind, changes) in VARIANTS.items():
        if name != FULL and name not in options.variants:
            continue
        found = ratio_runs.measure("rqfedrec", options.federation, options, data=data, **changes)
        full = table.rows[0]["Recall@10"] if table.rows else found["Recall@10"]
        table.add(
            variant=name,
            kind=kind,
            **found,
            **{"Δ Recall@10": found["Recall@10"] - full},
        )
    for line in ratio_runs.notes(options):
        table.note(line)
    table.note("'w/o codebooks' is FedMF with RQFedRec's settings.")
    path = table.save()
    if path is not None:
        picture = rqfedrec_figures.draw_ablations(table.rows)
        picture.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    return table


if __name__ == "__main__":
    main(AblationOptions, run, __doc__ or "")
