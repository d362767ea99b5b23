"""Structure-only collaboration without the leak: what each idea is worth, and where it ends up.

--part ideas: ML-100K, validation only. MLCGFedRec with one thing changed at a time: heads, labels,
bits, negatives, popularity; and what it comes from.
--part test: ML-100K, the test split at the best round by validation, over --seeds: the two final
forms, beside popularity, PFedRec, FedMF, CGFedRec, AlignFedRec's leak-free preset, RQFedRec, and
the control that shares nothing. A paired test of every user's NDCG against popularity.
--part transfer: the same settings, unchanged, on Amazon (leave-one-out) and Last.fm (ratio).
--part similarities: AlignFedRec's leak-free preset with one part changed at a time, validation.

All leak-free. Each part writes a file of its own, ``honest_structures_PART.json``.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from harness import Options, Table, dataset, main, metrics_at
from ratio_settings import build

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.compare.significance import holm, sign_flip_p
from fedjax_rec.compare.user_ranks import load_user_ranks
from fedjax_rec.data import Dataset
from fedjax_rec.evaluation import ndcg
from fedjax_rec.methods import Method

__all__ = ["StructureOptions", "run"]

Factory = Callable[[Dataset], Method]


@dataclass(frozen=True)
class StructureOptions(Options):
    """Options of this study.

    Attributes:
      part: what to do, see above.
      seeds: of the runs: means and standard deviations are over them.
      slow_seeds: those of methods that take minutes a run (AlignFedRec, CGFedRec, RQFedRec).
      rounds: rounds of MLCGFedRec.
      runs: folder of the runs' own artifacts: a study that was stopped goes on from there. With
        --toy, none.
    """

    part: Literal["ideas", "test", "transfer", "similarities"] = "ideas"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    slow_seeds: tuple[int, ...] = (0,)
    rounds: int = 10
    runs: Path = Path("runs/honest_structures")


class Entry(NamedTuple):
    """One row: what to train, for how long.

    Attributes:
      label: its name in the table.
      make: builds the method for a dataset.
      rounds: how many; None: ``options.rounds``.
      slow: whether it has ``options.slow_seeds``.
      every: rounds between evaluations.
    """

    label: str
    make: Factory
    rounds: int | None = None
    slow: bool = False
    every: int = 1


def ml(**options: Any) -> Factory:
    """MLCGFedRec with these options; no more clusters than there are items."""

    def make(data: Dataset) -> Method:
        config = methods.REGISTRY["mlcgfedrec"].config(**options)
        fitting = tuple(c for c in config.granularities if c <= data.num_items)
        return methods.mlcgfedrec(**{**options, "granularities": fitting})

    return make


PUBLISHED = Entry(
    "CGFedRec, items start at 0.01", lambda data: methods.cgfedrec(init_std=0.01), 4, slow=True
)

IDEAS = (
    Entry(
        "CGFedRec, items start at 0.01", lambda data: methods.cgfedrec(init_std=0.01), 4, slow=True
    ),
    Entry("one head for all (as published)", ml(heads="shared")),
    Entry("a head of one's own, anew each round", ml(heads="private")),
    Entry("… labels of the last 10 rounds' updates", ml(heads="private", accumulate=10)),
    Entry("heads from labels: MLCGFedRec", ml()),
    Entry("… without negatives", ml(negative_weight=0.0)),
    Entry("… negatives count 1 each", ml(negative_weight=1.0)),
    Entry("… without popularity", ml(popularity_weight=0.0)),
    Entry("… popularity weight 0.1", ml(popularity_weight=0.1)),
    Entry("… 1 bit", ml(label_bits=1)),
    Entry("… 2 bits", ml(label_bits=2)),
    Entry("… 3 bits", ml(label_bits=3)),
    Entry("… 8 bits", ml(label_bits=8)),
    Entry("… 4 coordinates", ml(dim=4)),
    Entry("… 8 coordinates", ml(dim=8)),
    Entry("… 32 coordinates", ml(dim=32)),
    Entry("clusters of six granularities", ml(labels="clusters")),
    Entry("… without popularity", ml(labels="clusters", popularity_weight=0.0)),
    Entry("… 60 clusters alone", ml(labels="clusters", granularities=(60,))),
    Entry(
        "… 60 clusters alone, without popularity",
        ml(labels="clusters", granularities=(60,), popularity_weight=0.0),
    ),
    Entry("… a head of one's own each round", ml(labels="clusters", heads="private")),
    Entry("nothing shared: the control", ml(without="sharing")),
)

FINAL = (
    Entry("popularity", lambda data: methods.popularity(), 1),
    Entry("nothing shared: the control", ml(without="sharing")),
    Entry("MLCGFedRec, codes", ml()),
    Entry("MLCGFedRec, clusters", ml(labels="clusters")),
    Entry("PFedRec", lambda data: methods.pfedrec(), 40, every=2),
    Entry("FedMF", lambda data: methods.fedmf(lr=0.1), 40, every=2),
    Entry(
        "CGFedRec, items start at 0.01", lambda data: methods.cgfedrec(init_std=0.01), 4, slow=True
    ),
    Entry(
        "AlignFedRec, leak-free preset",
        lambda data: methods.alignfedrec(preset="leak-free"),
        8,
        slow=True,
    ),
    Entry(
        "RQFedRec, settings of the ratio split",
        lambda data: build("rqfedrec", "ml-100k-ratio-943", data, dim=32),
        60,
        slow=True,
        every=5,
    ),
)

TRANSFER = (
    Entry("popularity", lambda data: methods.popularity(), 1),
    Entry("MLCGFedRec, codes", ml()),
    Entry("MLCGFedRec, clusters", ml(labels="clusters")),
    Entry("PFedRec", lambda data: methods.pfedrec(), 40, every=4),
    Entry("FedMF", lambda data: methods.fedmf(lr=0.1), 40, every=4),
)


def aligned(**options: Any) -> Factory:
    """AlignFedRec's leak-free preset with these options."""
    return lambda data: methods.alignfedrec(preset="leak-free", **options)


SIMILARITIES = tuple(
    Entry(label, make, 8, slow=True)
    for label, make in (
        ("the preset", aligned()),
        ("… without ICA", aligned(ica=False)),
        ("… with GSA", aligned(gsa=True)),
        ("… embeddings centred", aligned(center=True)),
        ("… graph threshold = σ", aligned(graph_threshold=None)),
        ("… items start at 0.01", aligned(init_std=0.01)),
        ("… items start at 1", aligned(init_std=1.0)),
    )
)

PARTS: Mapping[str, tuple[Entry, ...]] = {
    "ideas": IDEAS,
    "test": FINAL,
    "transfer": TRANSFER,
    "similarities": SIMILARITIES,
}
TITLES = {
    "ideas": "One idea at a time, ML-100K, leak-free, uni99, VALIDATION (percent)",
    "test": "Final settings, ML-100K, leak-free, test at the best round by validation (percent)",
    "transfer": "The same settings on other data, leak-free, test (percent)",
    "similarities": "AlignFedRec's preset, one part at a time, uni99, VALIDATION (percent)",
}
# Data of each part, and its split.
DATA: Mapping[str, tuple[tuple[str, Literal["loo", "ratio"]], ...]] = {
    "transfer": (("amazon", "loo"), ("lastfm-2k", "ratio")),
}


class Trained(NamedTuple):
    """A finished run: its result, and every user's test NDCG@10 (uni99; full where ratio)."""

    result: fedjax_rec.Result
    ndcg: np.ndarray


def run(options: StructureOptions) -> Table:
    """Runs one part; one row an entry and dataset."""
    table = Table(f"honest_structures_{options.part}", TITLES[options.part], options)
    several = DATA.get(options.part, (("ml-100k", "loo"),))
    with tempfile.TemporaryDirectory() as nowhere:
        root = Path(nowhere) if options.toy else options.runs
        for name, split in several:
            data = dataset(name, options)
            found = {}
            for entry in PARTS[options.part]:
                folder = root / f"{options.part}-{name}"
                found[entry.label] = [
                    _train(data, split, entry, seed, options, folder)
                    for seed in (options.slow_seeds if entry.slow else options.seeds)
                ]
                # Compiled programs of dozens of runs would take all of the process's memory maps.
                jax.clear_caches()
                row = {"data": name} if len(several) > 1 else {}
                table.add(**row, **_row(entry, found[entry.label], split, options))
            if options.part == "test":
                _significance(table, found)
    _notes(table, options)
    return table


def _train(
    data: Dataset,
    split: Literal["loo", "ratio"],
    entry: Entry,
    seed: int,
    options: StructureOptions,
    folder: Path,
) -> Trained:
    method = entry.make(data)
    rounds = options.rounds if entry.rounds is None else entry.rounds
    # By its options: an entry that changes must not take an old run.
    content = json.dumps([method.name, asdict(method.config), rounds, entry.every], default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    out = folder / f"{method.name}-{digest}-seed{seed}"
    result = fedjax_rec.simulate(
        method,
        data,
        rounds=rounds,
        split=split,
        protocol="leak-free",
        seed=seed,
        eval_every=entry.every,
        devices=options.devices,
        progress=False,
        report=False,
        out=out,
        resume=True,
        label=entry.label,
    )
    ranks = load_user_ranks(out, int(result.summary["best_round"]))
    return Trained(result, ndcg(ranks.test["uni99" if split == "loo" else "full"], 10))


def _row(
    entry: Entry, trained: list[Trained], split: str, options: StructureOptions
) -> dict[str, Any]:
    names = (
        {"HR@10": "hr@10/uni99", "NDCG@10": "ndcg@10/uni99", "HR full": "hr@10/full"}
        if split == "loo"
        else {"Recall@10": "recall@10/full", "NDCG@10 full": "ndcg@10/full"}
    )
    results = [one.result for one in trained]
    on_test = options.part in ("test", "transfer")
    row: dict[str, Any] = {"": entry.label, "seeds": len(results)}
    best = [int(r.summary["best_round"]) for r in results]
    for key, name in names.items():
        if on_test:
            values = [
                100 * metrics_at(r.history, number)[name]
                for r, number in zip(results, best, strict=True)
            ]
        else:
            values = [
                100 * _validation(r, number)[name] for r, number in zip(results, best, strict=True)
            ]
        row[key] = statistics.fmean(values)
        if len(values) > 1 and not key.startswith("HR f"):
            row[f"± {key}"] = statistics.stdev(values)
    if not on_test:
        last = [_validation(r, None) for r in results]
        row["last HR@10"] = 100 * statistics.fmean(x["hr@10/uni99"] for x in last)
    row["best round"] = statistics.fmean(best)
    sizes = [_kilobytes(r, number) for r, number in zip(results, best, strict=True)]
    row["kB down a round"] = statistics.fmean(size[0] for size in sizes)
    row["kB down, total"] = statistics.fmean(size[1] for size in sizes)
    return row


def _validation(result: fedjax_rec.Result, number: int | None) -> Mapping[str, float]:
    rows = result.history[result.history["split"] == "val"]
    row = rows.iloc[-1] if number is None else rows[rows["round"] == number].iloc[0]
    return row.to_dict()


def _kilobytes(result: fedjax_rec.Result, best: int) -> tuple[float, float]:
    """What a client receives: in the last round, and in all up to the model that was chosen.

    Scores after round r are by what is sent after it: round r + 1's download.
    """
    history = result.history[result.history["split"] == "val"].set_index("round")
    each = float(history["downlink_bytes"].iloc[-1])
    return each / 1e3, each * best / 1e3


def _significance(table: Table, found: dict[str, list[Trained]]) -> None:
    """Adds to every row the p-value of its users' NDCG@10 against popularity's."""
    base = _user_ndcg(found["popularity"])
    others = [label for label in found if label != "popularity"]
    raw = [sign_flip_p(_user_ndcg(found[label]) - base) for label in others]
    corrected = dict(zip(others, holm(raw), strict=True))
    for row in table.rows:
        row["p against popularity"] = corrected.get(row[""])
    table.save()


def _user_ndcg(trained: list[Trained]) -> np.ndarray:
    """[users] test NDCG@10, averaged over seeds."""
    return np.mean([one.ndcg for one in trained], axis=0)


def _notes(table: Table, options: StructureOptions) -> None:
    table.note(
        "'best round': by validation HR@10 (ratio: Recall@10). 'kB down': one client, in the last "
        "round, and over all rounds up to the best one. Chance is 10.0 / 4.5 over uni99."
    )
    if options.part == "test":
        table.note(
            "p: two-sided paired sign-flip test of users' NDCG@10 (uni99, averaged over seeds) "
            "against popularity, Holm-corrected."
        )
    if options.part == "ideas":
        table.note("'…': the row above it that does not begin so, with that changed.")


if __name__ == "__main__":
    main(StructureOptions, run, __doc__ or "")
