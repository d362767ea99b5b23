"""A round on one device and on several of the same machine, by turns.

On a CPU, `jax_num_cpu_devices` cuts the host into devices that share its cores: several should be
no slower than one, whose operations XLA spreads over the same cores by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
from client_sweep import build
from harness import Options, Table, dataset, main, median

from fedjax_rec.data import make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine

__all__ = ["DevicesOptions", "run"]

METHODS = ("pfedrec", "fedmf", "cgfedrec", "gpfedrec")


@dataclass(frozen=True)
class DevicesOptions(Options):
    """Options of this benchmark. ``--devices``: the most to divide the clients over.

    Attributes:
      methods: pfedrec, fedmf, cgfedrec, gpfedrec.
      turns: timed rounds of each, after those that compile.
    """

    methods: tuple[str, ...] = METHODS
    turns: int = 5


def run(options: DevicesOptions) -> Table:
    """Times every method on 1, 2, 4, … devices; one row each."""
    if unknown := set(options.methods) - set(METHODS):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(METHODS)}")
    if options.turns < 1:
        raise InputError(f"--turns {options.turns}: give 1 or more")
    most = options.devices or len(jax.devices())
    counts = [1 << power for power in range(most.bit_length())]
    if len(counts) < 2:
        raise InputError(f"--devices {most}: there is nothing to compare with fewer than 2")
    table = Table("devices", "A round on one device and on several, ML-100K", options)
    problem = make_problem(dataset("ml-100k", options), seed=options.seed)
    for name in options.methods:
        seconds = _rounds(name, problem, counts, options)
        alone = median(seconds[1])
        for count in counts:
            table.add(
                **{
                    "method": name,
                    "devices": count,
                    "s/round": median(seconds[count]),
                    "min–max": f"{min(seconds[count]):.3g}–{max(seconds[count]):.3g}",
                    "one device ×": alone / median(seconds[count]),
                    "clients/s": problem.num_clients / median(seconds[count]),
                }
            )
    table.note("'one device ×': how many times as fast as on one device. Turns alternate.")
    return table


def _rounds(name, problem, counts, options):
    """Seconds of each timed round, by number of devices."""
    method = build(name, problem)
    engines = {n: Engine(method, problem, client_mesh(n), seed=options.seed) for n in counts}
    states = {count: engine.initial_state() for count, engine in engines.items()}
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    # CGFedRec meets its labels, and the program that contrasts them, in the second round.
    for number in range(1, options.turns + 3):
        for count, engine in engines.items():
            states[count], outcome = engine.run_round(states[count], number)
            if number > 2:
                seconds[count].append(outcome.seconds.total - outcome.seconds.compile)
    return seconds


if __name__ == "__main__":
    main(DevicesOptions, run, __doc__ or "")
