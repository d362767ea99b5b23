"""Seconds a round per client as the number of clients grows; it should stay flat.

Synthetic data with planted clusters, m = 1000 items, d = 32, one user a client.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import Options, Table, main, median, round_seconds

import fedjax_rec
from fedjax_rec.errors import InputError

__all__ = ["SweepOptions", "run"]


@dataclass(frozen=True)
class SweepOptions(Options):
    """Options of the client-count sweep.

    Attributes:
      methods: pfedrec, cgfedrec, or both.
      clients: the numbers of clients; the first that reaches 1,000 is the base of the comparison.
      items: m.
      rounds: timed rounds, after those that compile.
    """

    methods: tuple[str, ...] = ("pfedrec", "cgfedrec")
    clients: tuple[int, ...] = (100, 1_000, 10_000)
    items: int = 1_000
    rounds: int = 3


def run(options: SweepOptions) -> Table:
    """Times every method at every number of clients; one row each."""
    if unknown := set(options.methods) - {"pfedrec", "cgfedrec"}:
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from pfedrec, cgfedrec")
    clients, items, base_at = options.clients, options.items, 1_000
    if options.toy:
        clients, items, base_at = (10, 40), 80, 10
    table = Table("client_sweep", f"Client-count sweep, synthetic, m = {items}, d = 32", options)
    for name in options.methods:
        base: float | None = None
        for count in sorted(clients):
            data = fedjax_rec.load_dataset("synthetic", users=count, items=items, seed=options.seed)
            extra = {"clusters": min(60, items // 5)} if name == "cgfedrec" else {}
            method = getattr(fedjax_rec.methods, name)(optimizer="sgd", dim=32, **extra)
            rounds = 2 + options.rounds
            result = fedjax_rec.simulate(
                method,
                data,
                rounds=rounds,
                seed=options.seed,
                eval_every=rounds,
                devices=options.devices,
                progress=False,
            )
            seconds = median(round_seconds(result.timings, skip=2))
            each = seconds / count
            if base is None and count >= base_at:
                base = each
            table.add(
                **{
                    "method": name,
                    "clients": count,
                    "interactions": data.num_interactions,
                    "s/round": seconds,
                    "µs/round/client": 1e6 * each,
                    "clients/s": count / seconds,
                    "against 1,000": None if base is None else each / base,
                    "verdict": None if base is None else _verdict(each / base),
                }
            )
    table.note("'ok': seconds per client within 20 % of those at 1,000 clients.")
    return table


def _verdict(relative: float) -> str:
    return "ok" if relative <= 1.2 else "slower"


if __name__ == "__main__":
    main(SweepOptions, run, __doc__ or "")
