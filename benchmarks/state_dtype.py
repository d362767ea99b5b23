"""What keeping the clients' states in fewer bits costs: accuracy, memory, seconds, on ML-100K.

The methods are those whose clients keep a whole item table between rounds (CGFedRec, AlignFedRec's
leak-free preset, FedCIA), and PFedRec, whose clients keep a head alone. Between two rounds a state
is float32, bfloat16, or int8 with one scale a row; it trains at full precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
from harness import Options, Table, dataset, main, median, metrics_at, round_seconds

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.simulation.storage import StateDtype, stored_as

__all__ = ["StateDtypeOptions", "run"]


@dataclass(frozen=True)
class StateDtypeOptions(Options):
    """Options of this benchmark.

    Attributes:
      methods: of cgfedrec, alignfedrec, fedcia, pfedrec.
      dtypes: of float32, bfloat16, int8.
      rounds: rounds of each; PFedRec, whose rounds are cheap, runs four times as many.
      seeds: one run each: the table has means and, with two or more, standard deviations.
      runs: folder of the runs' own artifacts: a benchmark that was stopped goes on from there. With
        --toy, none.
    """

    methods: tuple[str, ...] = ("cgfedrec", "alignfedrec", "fedcia", "pfedrec")
    dtypes: tuple[str, ...] = get_args(StateDtype)
    rounds: int = 8
    seeds: tuple[int, ...] = (0,)
    runs: Path = Path("runs/state_dtype")

    def __post_init__(self) -> None:
        for name, given, known in (
            ("methods", self.methods, tuple(_METHODS)),
            ("dtypes", self.dtypes, get_args(StateDtype)),
        ):
            unknown = set(given) - set(known)
            if unknown or not given:
                raise InputError(f"--{name} {' '.join(given)}: use some of {', '.join(known)}")


# Small steps make rounding hardest: these are the settings of the other benchmarks.
_METHODS: dict[str, Callable[[], Method]] = {
    "cgfedrec": lambda: fedjax_rec.methods.cgfedrec(init_std=0.01),
    "alignfedrec": lambda: fedjax_rec.methods.alignfedrec(preset="leak-free"),
    "fedcia": lambda: fedjax_rec.methods.fedcia(dim=32, lr=0.01, weight_decay=1e-3),
    "pfedrec": lambda: fedjax_rec.methods.pfedrec(),
}


def run(options: StateDtypeOptions) -> Table:
    """One row a method and storage type."""
    table = Table("state_dtype", "Clients' states in fewer bits, ML-100K, test (percent)", options)
    data = dataset("ml-100k", options)
    for name in options.methods:
        for dtype in options.dtypes:
            table.add(**_row(data, options, name, dtype))
    table.note(
        "Leak-free protocol, leave-one-out; best round by validation HR@10, and the last. One user "
        "a client. 'state': what a client keeps between rounds, as stored. Seconds: median of a "
        "round without compilation and evaluation."
    )
    return table


def _row(data: Dataset, options: StateDtypeOptions, name: str, dtype: Any) -> dict[str, Any]:
    results = [_trained(data, options, name, dtype, seed) for seed in options.seeds]
    row: dict[str, Any] = {
        "method": name,
        "dtype": dtype,
        "state kB": _state_bytes(_METHODS[name](), results[0].problem, dtype) / 1e3,
    }
    for prefix in ("", "last "):
        for key, metric in (("HR@10", "hr@10/uni99"), ("NDCG@10", "ndcg@10/uni99")):
            rounds = [None if prefix else int(r.summary["best_round"]) for r in results]
            found = [
                100 * metrics_at(r.history, number)[metric]
                for r, number in zip(results, rounds, strict=True)
            ]
            mean = sum(found) / len(found)
            row[f"{prefix}{key}"] = mean
            if len(found) > 1 and not prefix:
                spread = math.sqrt(sum((x - mean) ** 2 for x in found) / (len(found) - 1))
                row[f"± {key}"] = spread
    row["s/round"] = median(s for r in results for s in round_seconds(r.timings, skip=2))
    return row


def _trained(
    data: Dataset, options: StateDtypeOptions, name: str, dtype: Any, seed: int
) -> fedjax_rec.Result:
    label = f"{name}-{dtype}-seed{seed}"
    rounds = options.rounds * (4 if name == "pfedrec" else 1)
    return fedjax_rec.simulate(
        _METHODS[name](),
        data,
        rounds=rounds,
        seed=seed,
        protocol="leak-free",
        split="loo",
        state_dtype=dtype,
        eval_every=1,
        devices=options.devices,
        progress=False,
        out=None if options.toy else options.runs / label,
        resume=not options.toy,
        label=label,
    )


def _state_bytes(method: Method, problem: Any, dtype: Any) -> int:
    method = stored_as(method, dtype)
    key = jax.random.key(0)
    server = jax.eval_shape(lambda key: method.init(key, problem), key)
    client = jax.eval_shape(lambda key, s: method.init_client(key, s, 1), key, server)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(client))


if __name__ == "__main__":
    main(StateDtypeOptions, run, __doc__ or "")
