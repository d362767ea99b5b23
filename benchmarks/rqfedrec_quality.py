"""RQFedRec beside FedMF, local MF and popularity on the ratio split, with the papers' tables.

ML-100K over 100 silos and over 943 single users, and ML-1M over 100 silos; full ranking; standard
metrics, and those of FedCIA's release, which the papers' tables are made with. Every run stops once
its validation recall has not risen for a while, and is quoted at its best validation round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import ratio_runs
import ratio_settings
from harness import Table, dataset, main
from ratio_runs import RatioOptions
from ratio_settings import FEDERATIONS, METHODS, PUBLISHED

from fedjax_rec.errors import InputError

__all__ = ["QualityOptions", "run"]

_ORDER = ("rqfedrec", "fedmf", "local-mf")  # as published, the best first
_NEAR = 0.9  # of the published recall


@dataclass(frozen=True)
class QualityOptions(RatioOptions):
    """Options of the comparison.

    Attributes:
      methods: which to run: rqfedrec, fedmf, local-mf, popularity.
      federations: where: ml-100k-ratio, ml-100k-ratio-943, ml-1m-ratio.
      single_dim: d for 943 clients of one user, where local MF keeps 943 tables.
      large_dim: d for ML-1M, where a round takes ten times as long.
      large_seeds: likewise, seeds.
    """

    methods: tuple[str, ...] = METHODS
    federations: tuple[str, ...] = tuple(FEDERATIONS)
    seeds: tuple[int, ...] = (0, 1, 2)
    single_dim: int = 512
    large_dim: int = 512
    large_seeds: tuple[int, ...] = (0,)


def run(options: QualityOptions) -> Table:
    """Runs every method on every federation; one row each, and one a published figure."""
    _check(options)
    table = Table("rqfedrec_quality", "Ratio split, 72/8/20, test (percent)", options)
    for federation in options.federations:
        data = dataset(federation, options)
        published = dict(PUBLISHED[federation])
        there = _options_of(federation, options)
        for name in options.methods:
            found = ratio_runs.measure(name, federation, there, data=data)
            table.add(federation=federation, method=name, **found)
            if name in published:
                _add_published(table, federation, name, published.pop(name))
        for name, metrics in published.items():
            _add_published(table, federation, name, metrics)
        table.note(_verdict(federation, table.rows))
        if not ratio_settings.has_content(data):
            table.note(
                f"{federation}: its items have no titles or genres here, so RQFedRec runs without "
                "the semantic channel."
            )
    for line in ratio_runs.notes(options):
        table.note(line)
    table.note("'local-mf' is the method mf-local: the same backbone, nothing shared.")
    return table


def _check(options: QualityOptions) -> None:
    for federation in FEDERATIONS:
        ratio_runs.check(_options_of(federation, options))
    for option, chosen, known in (
        ("methods", options.methods, METHODS),
        ("federations", options.federations, tuple(FEDERATIONS)),
    ):
        if unknown := [value for value in chosen if value not in known]:
            raise InputError(f"--{option} {' '.join(unknown)}: choose from {', '.join(known)}")


def _options_of(federation: str, options: QualityOptions) -> QualityOptions:
    if federation == "ml-100k-ratio-943":
        return replace(options, dim=options.single_dim)
    if federation == "ml-1m-ratio":
        return replace(options, dim=options.large_dim, seeds=options.large_seeds)
    return options


def _add_published(table: Table, federation: str, name: str, metrics: Any) -> None:
    table.add(federation=federation, method=f"{name} (published)", **metrics)


def _verdict(federation: str, rows: list[dict[str, Any]]) -> str:
    """Whether the published order holds, and how near the published recall is."""
    ours = {row["method"]: row["Recall@10"] for row in rows if row["federation"] == federation}
    ranked = [name for name in _ORDER if name in ours]
    said = []
    for better, worse in pairwise(ranked):
        verb = "≥" if ours[better] >= ours[worse] else "BELOW"
        said.append(f"{better} {ours[better]:.2f} {verb} {worse} {ours[worse]:.2f}")
    for name in ranked:
        paper = ours.get(f"{name} (published)")
        if paper is not None:
            share = ours[name] / paper
            said.append(f"{name} {share:.0%} of published{'' if share >= _NEAR else ' (MISSES)'}")
    return f"{federation}, Recall@10: {'; '.join(said) or 'nothing to compare'}."


if __name__ == "__main__":
    main(QualityOptions, run, __doc__ or "")
