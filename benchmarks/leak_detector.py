"""Does the protocol leak? Local-only, PFedRec and popularity against the measured references.

ML-100K, leave-one-out, 943 clients, d = 32, two local epochs, test figures after the last round.
Under `published`, training negatives avoid the held-out items, so even clients that never talk
to each other "predict" them; under `leak-free` such clients stay at chance (10 / 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import Options, Table, dataset, main, metrics_at

import fedjax_rec

__all__ = ["LeakOptions", "run"]


@dataclass(frozen=True)
class LeakOptions(Options):
    """Options of the leak detector.

    Attributes:
      rounds: federated rounds; the references are for 40.
      tolerance: points of HR@10 and NDCG@10 by which a figure may miss its reference.
    """

    rounds: int = 40
    tolerance: float = 3.0


@dataclass(frozen=True)
class Case:
    """One run and what is known of it, in percent (design page §3; local-only: bounds).

    Attributes:
      hr: reference HR@10 over uni99; `bound` says how to read it.
      ndcg: reference NDCG@10, or None where only HR@10 is bounded.
      bound: "near" (within the tolerance), "at least" or "at most".
    """

    method: str
    protocol: str
    evaluate_at: str
    hr: float
    ndcg: float | None
    bound: str = "near"


CASES = (
    Case("local", "published", "trained", 90.0, None, "at least"),
    Case("local", "leak-free", "trained", 15.0, None, "at most"),
    Case("pfedrec", "published", "download", 63.6, 37.8),
    Case("pfedrec", "published", "trained", 70.1, 41.8),
    Case("pfedrec", "leak-free", "download", 63.0, 35.7),
    Case("pfedrec", "leak-free", "trained", 55.2, 32.1),
    Case("popularity", "published", "download", 40.8, 22.2),
    Case("popularity", "leak-free", "download", 40.8, 22.2),
)


def run(options: LeakOptions) -> Table:
    """Runs every case; one row each, with its verdict."""
    title = f"Leak detector, ML-100K, uni99, test at round {options.rounds} (percent)"
    table = Table("leak_detector", title, options)
    data = dataset("ml-100k", options)
    for case in CASES:
        training = {} if case.method == "popularity" else {"local_epochs": 2, "optimizer": "sgd"}
        result = fedjax_rec.simulate(
            getattr(fedjax_rec.methods, case.method)(**training),
            data,
            rounds=options.rounds if training else 1,
            seed=options.seed,
            protocol=case.protocol,
            evaluate_at=case.evaluate_at,
            eval_every=options.rounds,
            devices=options.devices,
            progress=False,
        )
        found = metrics_at(result.history)
        hr, ndcg = 100 * found["hr@10/uni99"], 100 * found["ndcg@10/uni99"]
        table.add(
            **{
                "method": case.method,
                "protocol": case.protocol,
                "scored at": case.evaluate_at,
                "HR@10": hr,
                "NDCG@10": ndcg,
                "HR@10 ref.": case.hr,
                "NDCG@10 ref.": case.ndcg,
                "reads": case.bound,
                "verdict": verdict(case, hr, ndcg, options.tolerance),
            }
        )
    table.note(f"'near' allows {options.tolerance:g} points. Chance is 10.0 / 4.5.")
    if options.toy:
        table.note("The references are ML-100K's: on the toy data a verdict means nothing.")
    return table


def verdict(case: Case, hr: float, ndcg: float, tolerance: float) -> str:
    """ "ok", or which figure misses and by how many points."""
    if case.bound == "at least":
        misses = {"HR": min(hr - case.hr, 0)}
    elif case.bound == "at most":
        misses = {"HR": max(hr - case.hr, 0)}
    else:
        differences = {"HR": hr - case.hr}
        if case.ndcg is not None:
            differences["NDCG"] = ndcg - case.ndcg
        misses = {k: d if abs(d) > tolerance else 0 for k, d in differences.items()}
    wrong = [f"{name} {miss:+.1f}" for name, miss in misses.items() if miss]
    return f"misses: {', '.join(wrong)}" if wrong else "ok"


if __name__ == "__main__":
    main(LeakOptions, run, __doc__ or "")
