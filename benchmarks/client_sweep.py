"""Seconds a round per client as the number of clients grows; it should stay flat.

Synthetic data with planted clusters, one user a client, d = 32. The defaults end at a million
clients over 10,000 items.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from harness import Options, Table, main, median

import fedjax_rec
from fedjax_rec.data import Problem, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine

__all__ = ["SweepOptions", "build", "run"]

METHODS = ("pfedrec", "fedmf", "cgfedrec")
FLAT = 1.15


@dataclass(frozen=True)
class SweepOptions(Options):
    """Options of the client-count sweep.

    Attributes:
      methods: pfedrec, fedmf, cgfedrec.
      clients: the numbers of clients; the first that reaches 1,000 is the base of the comparison.
      items: m.
      interactions: a user's mean number of interactions.
      rounds: timed rounds, after one that compiles.
      state: where clients' states are between rounds: auto, device, host or disk.
    """

    methods: tuple[str, ...] = ("pfedrec",)
    clients: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    items: int = 10_000
    interactions: float = 20.0
    rounds: int = 5
    state: str = "auto"


def run(options: SweepOptions) -> Table:
    """Times every method at every number of clients; one row each."""
    if unknown := set(options.methods) - set(METHODS):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(METHODS)}")
    clients, items, base_at = options.clients, options.items, 1_000
    if options.toy:
        clients, items, base_at = (10, 40), 80, 10
    table = Table("client_sweep", f"Client-count sweep, synthetic, m = {items:,}, d = 32", options)
    base: dict[str, float] = {}
    for count in sorted(clients):
        start = time.perf_counter()
        problem = make_problem(
            fedjax_rec.load_dataset(
                "synthetic",
                users=count,
                items=items,
                interactions_per_user=options.interactions,
                seed=options.seed,
            ),
            seed=options.seed,
        )
        prepared = time.perf_counter() - start
        for name in options.methods:
            seconds, beginning = _rounds(name, problem, options)
            each = seconds / count
            if name not in base and count >= base_at:
                base[name] = each
            relative = each / base[name] if name in base else None
            table.add(
                **{
                    "method": name,
                    "clients": count,
                    "interactions": len(problem.train.values),
                    "s/round": seconds,
                    "µs/round/client": 1e6 * each,
                    "clients/s": count / seconds,
                    "against 1,000": relative,
                    "verdict": None if relative is None else _verdict(relative),
                    "data s": prepared,
                    "start s": beginning,
                    "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
                }
            )
        del problem
    table.note(
        f"'ok': seconds per client at most {FLAT:g} × those at 1,000 clients. Rounds are not "
        "evaluated."
    )
    table.note(
        "'interactions': those trained on. 'data s': drawing and splitting the dataset. 'start s': "
        "layout, first states and the round that compiles. 'peak GB': of the process so far."
    )
    return table


def build(name: str, problem: Problem) -> Method:
    """A method that trains by SGD, d = 32; CGFedRec's clusters are fewer where items are few."""
    extra = {"clusters": min(60, problem.num_items // 5)} if name == "cgfedrec" else {}
    return fedjax_rec.methods.build(name, optimizer="sgd", dim=32, **extra)


def _rounds(name, problem, options):
    """Median seconds of a round, and seconds until the first one is over."""
    start = time.perf_counter()
    mesh = client_mesh(options.devices)
    engine = Engine(build(name, problem), problem, mesh, seed=options.seed, state=options.state)
    state, seconds = engine.initial_state(), []
    for number in range(1, options.rounds + 2):
        state, outcome = engine.run_round(state, number)
        if number == 1:
            beginning = time.perf_counter() - start
        else:
            seconds.append(outcome.seconds.total)
    return median(seconds), beginning


def _verdict(relative: float) -> str:
    return "ok" if relative <= FLAT else "slower"


if __name__ == "__main__":
    main(SweepOptions, run, __doc__ or "")
