"""How large thresholded similarity matrices really are, and what they buy.

AlignFedRec sends, for every pair of items whose cosine reaches σ, an index and a value; whether
that is less than the embeddings themselves depends on how many pairs those are. Each catalogue is
trained once, and the pairs of its clients' tables are counted at all thresholds in one pass
(`measured`); ML-100K is trained anew at every threshold and width of values (`trained`), with the
scores that came of it. Costs of the alternatives at the same catalogue stand beside.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import budget_figure
import numpy as np
from harness import Options, Table, main, metrics_at, write_json
from pair_counts import pair_counts

import fedjax_rec
from fedjax_rec import uplink
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError
from fedjax_rec.units import human_bytes

__all__ = ["BudgetOptions", "Subject", "alternatives", "run"]

BITS = (32, 8, 4)
CLUSTERS = 60  # of the label-only methods
LEVELS = 3  # of a codebook
MADE_UP = "synthetic-"


@dataclass(frozen=True)
class BudgetOptions(Options):
    """Options of the similarity budget.

    Attributes:
      client_limit: clients that train with AlignFedRec on every catalogue; by default as many as
        take a minute or two: 64 on ML-100K, 8 on Amazon, 6 on Last.fm.
      rounds: of AlignFedRec; its first round has no structure to align to.
      long_rounds: of two more runs on ML-100K, from the smallest initial scale, of few clients:
        what the budget becomes once training has had its way, with L_GSA and without.
      long_clients: its clients.
      pfedrec_rounds: of PFedRec on the catalogues that are too large for AlignFedRec; eight times
        as many on ML-100K.
      init_stds: initial scales of AlignFedRec's embeddings. Where they are large, what
        is measured is the random start; where they are small, what training did to it.
      thresholds: σ, ascending.
      trained_preset: AlignFedRec's settings in the runs with a threshold each: those that learn
        something leak-free, so that there are scores to compare.
      trained_clients: likewise, clients; by default all.
      trained_rounds: likewise, rounds.
      trained_bits: likewise, widths of the values. Scores of others are left out.
      catalogues: those to measure; by default all.
      parts: folder of what is already measured: a benchmark that was stopped goes on from there.
        With --toy, none.
    """

    client_limit: int | None = None
    rounds: int = 4
    long_rounds: int = 60
    long_clients: int = 8
    pfedrec_rounds: int = 5
    init_stds: tuple[float, ...] = (1.0, 0.01)
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    trained_preset: str = "leak-free"
    trained_clients: int | None = None
    trained_rounds: int = 4
    trained_bits: tuple[int, ...] = BITS
    catalogues: tuple[str, ...] = (
        "ml-100k",
        "amazon",
        "lastfm-2k",
        "synthetic-25000",
        "synthetic-50000",
    )
    parts: Path = Path("runs/similarity_budget")


@dataclass(frozen=True)
class Subject:
    """One training run whose tables are counted.

    Attributes:
      catalogue: a known dataset, or synthetic-ITEMS.
      method: "alignfedrec", "alignfedrec-no-gsa", or "pfedrec": its global table, as if it were
        one client's.
      clients: the first so many.
      rounds: communication rounds.
      init_std: initial scale of the items.
      threshold: σ that AlignFedRec trains with.
      bits: of the values it sends.
      seed: of the run.
      preset: settings of AlignFedRec, which then decide width and initial scale; None: the
        write-up's.
    """

    catalogue: str
    method: str
    clients: int | None
    rounds: int
    init_std: float = 1.0
    threshold: float = 0.5
    bits: int = 32
    seed: int = 0
    preset: str | None = None


def run(options: BudgetOptions) -> Table:
    """Measures every catalogue, then trains ML-100K at every threshold; a row a threshold."""
    _check(options)
    table = Table("similarity_budget", "Bytes of thresholded similarity matrices", options)
    known = subjects(options)
    for subject in (subject for name in options.catalogues for subject in known[name]):
        part = _part(options, subject, options.thresholds)
        rows = [_row(subject, "measured", part, t) for t in range(len(options.thresholds))]
        for row in rows:
            table.add(**row)
        table.note(_verdict(subject, rows))
    if "ml-100k" in options.catalogues:
        for threshold in options.thresholds:
            table.add(**_trained_row(options, threshold))
    table.note(
        "measured: trained once, AlignFedRec at σ = 0.5, counted at every σ. trained: trained at "
        "that σ. pairs and up: means over clients; M_g: pairs that any of these clients sent, a "
        "lower bound for more clients; its values are float32, its labels not counted."
    )
    table.note(
        "L_GSA pulls a client's pairs above the σ it trains with towards M_g, in which a client "
        "below σ counts as 0: a run trained at 0.5 thins out from 0.5 on. The runs without L_GSA "
        "and those trained at each σ are the ones to compare."
    )
    table.note(
        f"Scores of the trained: percent, test, uni99, leak-free, best of {options.trained_rounds} "
        f"rounds by validation, preset {options.trained_preset} but for σ and bits, one seed. "
        "Chance is 10.0 / 4.5, popularity 41.1 / 23.4."
    )
    table.note(
        f"id: m·d float32. labels: {CLUSTERS} clusters (a download: CGFedRec's upload is id). "
        f"codebook: {LEVELS}·M·d float32, one channel (RQFedRec sends two), M = 256, 512 or 1,024 "
        "by the catalogue's size."
    )
    path = table.save()
    if path is not None:
        picture = budget_figure.draw([r for r in table.rows if r["kind"] == "measured"])
        picture.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    return table


def subjects(options: BudgetOptions) -> dict[str, list[Subject]]:
    """What is measured of each catalogue."""
    scale = {"seed": options.seed, "rounds": options.rounds}

    def aligned(name: str, clients: int) -> Subject:
        return Subject(name, "alignfedrec", options.client_limit or clients, **scale)

    federated = {"seed": options.seed, "rounds": options.pfedrec_rounds}
    ml_100k = aligned("ml-100k", 64)
    found = {
        "ml-100k": [
            *(replace(ml_100k, init_std=std) for std in options.init_stds),
            *(
                replace(
                    ml_100k,
                    method=method,
                    init_std=min(options.init_stds),
                    clients=options.long_clients,
                    rounds=options.long_rounds,
                )
                for method in ("alignfedrec", "alignfedrec-no-gsa")
            ),
            Subject(
                "ml-100k", "pfedrec", 943, **federated | {"rounds": 8 * options.pfedrec_rounds}
            ),
        ],
        "amazon": [replace(aligned("amazon", 8), init_std=std) for std in options.init_stds],
        "lastfm-2k": [replace(aligned("lastfm-2k", 6), init_std=std) for std in options.init_stds],
    }
    for name in options.catalogues:
        if name.startswith(MADE_UP):
            found[name] = [Subject(name, "pfedrec", 200, **federated)]
    return found


def alternatives(items: int, dim: int) -> dict[str, int]:
    """Bytes that other ways of telling a server about m items cost: id-indexed embeddings, labels
    only, and one channel of residual codebooks."""
    codewords = 256 if items <= 2_000 else 512 if items <= 12_000 else 1_024
    return {
        "id": 4 * items * dim,
        "labels": uplink.labels(items, CLUSTERS).bytes,
        "codebook": 4 * LEVELS * codewords * dim,
    }


def _check(options: BudgetOptions) -> None:
    known = ("ml-100k", "amazon", "lastfm-2k")
    for name in options.catalogues:
        size = name.removeprefix(MADE_UP)
        if name not in known and not (name.startswith(MADE_UP) and size.isdecimal()):
            raise InputError(
                f"--catalogues {name}: choose from {', '.join(known)}, synthetic-ITEMS"
            )
    for bits in options.trained_bits:
        if bits not in BITS:
            raise InputError(f"--trained-bits {bits}: choose from {', '.join(map(str, BITS))}")
    if not options.thresholds or list(options.thresholds) != sorted(set(options.thresholds)):
        raise InputError(f"--thresholds {options.thresholds}: give at least one, ascending")
    if not options.init_stds:
        raise InputError("--init-stds: give at least one")
    for name in (
        "rounds",
        "pfedrec_rounds",
        "long_rounds",
        "long_clients",
        "trained_clients",
        "trained_rounds",
    ):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} must be 1 or more")


def _part(
    options: BudgetOptions, subject: Subject, thresholds: tuple[float, ...]
) -> dict[str, Any]:
    """What training and counting a subject gave, from the folder where it is there already."""
    subject = _toy(subject) if options.toy else subject
    asked = asdict(subject) | {"thresholds": list(thresholds)}
    if options.toy:
        return asked | _measure(subject, thresholds, options)
    name = "-".join(str(value) for value in asdict(subject).values() if value is not None)
    path = options.parts / f"{name}-{len(thresholds)}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in asked} == asked:
            return found
    found = asked | _measure(subject, thresholds, options)
    write_json(path, found)
    return found


def _toy(subject: Subject) -> Subject:
    return replace(
        subject, catalogue=f"{MADE_UP}60", clients=min(subject.clients or 6, 6), rounds=2
    )


def _measure(
    subject: Subject, thresholds: tuple[float, ...], options: BudgetOptions
) -> dict[str, Any]:
    aligned = subject.method != "pfedrec"
    choices: dict[str, Any] = {}
    if subject.preset is None:
        choices = {"dim": 64, "init_std": subject.init_std}
        if aligned:
            choices["gsa"] = subject.method == "alignfedrec"
    if aligned:
        choices["bits"] = None if subject.bits == 32 else subject.bits
        choices |= {"threshold": subject.threshold, "preset": subject.preset}
    data = _dataset(subject)
    result = fedjax_rec.simulate(
        fedjax_rec.methods.build("alignfedrec" if aligned else "pfedrec", **choices),
        data,
        rounds=subject.rounds,
        seed=subject.seed,
        split="loo" if data.timestamp is not None else "ratio",
        client_limit=subject.clients,
        eval_every=1 if subject.preset else subject.rounds,
        devices=options.devices,
        progress=False,
    )
    last = metrics_at(result.history)
    items = result.client_states.items if aligned else result.server_state.items[None]
    counts = pair_counts(items, thresholds)
    best = result.summary["test"]
    scores = {
        name: best[f"{name}@10/uni99"] for name in ("hr", "ndcg") if f"{name}@10/uni99" in best
    }
    return {
        "items": int(items.shape[1]),
        "dim": int(items.shape[2]),
        "counts": counts.clients.tolist(),
        "union": counts.union.tolist(),
        "sent_bytes": int(last["uplink_bytes"]),
        **{name: float(value) for name, value in scores.items()},
    }


def _dataset(subject: Subject) -> Dataset:
    if not subject.catalogue.startswith(MADE_UP):
        return fedjax_rec.load_dataset(subject.catalogue)
    items = int(subject.catalogue.removeprefix(MADE_UP))
    return fedjax_rec.load_dataset(
        "synthetic", users=subject.clients, items=items, seed=subject.seed
    )


def _row(subject: Subject, kind: str, part: dict[str, Any], index: int) -> dict[str, Any]:
    m, counts = part["items"], [client[index] for client in part["counts"]]
    row: dict[str, Any] = {
        "kind": kind,
        "catalogue": part["catalogue"],
        "items": m,
        "by": subject.method if subject.preset is None else f"preset {subject.preset}",
        "init std": subject.init_std if subject.preset is None else None,
        "clients": part["clients"] or len(counts),
        "rounds": part["rounds"],
        "σ": part["thresholds"][index],
        "pairs": float(np.mean(counts)),
        "% of pairs": 100 * float(np.mean(counts)) / (m * (m - 1) // 2),
    }
    for bits in BITS:
        sizes = [uplink.pairs(m, count, value_bits=bits).bytes for count in counts]
        row[f"up B, {bits} bit"] = round(float(np.mean(sizes)))
    row["M_g pairs"] = part["union"][index]
    row["M_g B"] = uplink.pairs(m, part["union"][index]).bytes
    return row | {f"{name} B": size for name, size in alternatives(m, part["dim"]).items()}


def _trained_row(options: BudgetOptions, threshold: float) -> dict[str, Any]:
    base = Subject(
        "ml-100k",
        "alignfedrec",
        options.trained_clients,
        options.trained_rounds,
        threshold=threshold,
        seed=options.seed,
        preset=options.trained_preset,
    )
    row = _row(base, "trained", _part(options, base, (threshold,)), 0)
    for bits in BITS:
        wanted = bits in options.trained_bits
        part = _part(options, replace(base, bits=bits), (threshold,)) if wanted else {}
        if wanted:
            row[f"up B, {bits} bit"] = part["sent_bytes"]  # what that very run sent at its end
        for name in ("hr", "ndcg"):
            row[f"{name.upper()}@10, {bits} bit"] = 100 * part[name] if wanted else None
    return row


def _verdict(subject: Subject, rows: list[dict[str, Any]]) -> str:
    """From which threshold the matrix is smaller than the table it was made from."""
    said = []
    for bits in BITS:
        below = [row for row in rows if row[f"up B, {bits} bit"] < row["id B"]]
        said.append(
            f"{bits} bit: from σ = {below[0]['σ']} ({below[0]['% of pairs']:.3g} % of pairs)"
            if below
            else f"{bits} bit: at none"
        )
    middle = rows[len(rows) // 2]
    first, share = rows[0], f"{middle['% of pairs']:.3g} % of pairs"
    return (
        f"{first['catalogue']}, {subject.method}, init std {subject.init_std:g}, "
        f"{first['clients']} clients, {first['rounds']} rounds: the upload is below the "
        f"id-indexed {human_bytes(first['id B'])} at {'; '.join(said)}. "
        f"At σ = {middle['σ']} it is {human_bytes(middle['up B, 32 bit'])} ({share}) in float32, "
        f"M_g {human_bytes(middle['M_g B'])}."
    )


if __name__ == "__main__":
    main(BudgetOptions, run, __doc__ or "")
