"""A federated round against the per-client PyTorch loop, on one machine in one run.

Turns alternate (ours, the reference, ours, …), so that a machine that slows down in between
slows both. Negative sampling, shuffling and the server's work are inside both timings;
compilation and evaluation are outside ours (the loop has neither).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch_loop
from harness import Options, Table, dataset, main, median, round_seconds
from roofline import Peaks, contrastive_cost, local_steps, measure_peaks

import fedjax_rec
from fedjax_rec.data import Dataset, Problem, make_problem
from fedjax_rec.errors import InputError

__all__ = ["SpeedOptions", "run", "spread"]

Round = Callable[..., torch_loop.LoopState]


@dataclass(frozen=True)
class SpeedOptions(Options):
    """Options of the speed benchmark.

    Attributes:
      methods: which to time.
      turns: reference rounds a method; ours is timed before and after each.
      rounds: rounds of ours a turn, after those that compile.
      reference_clients: time the reference on this many clients, evenly spread over the sizes,
        and extrapolate by local steps; by default all of them, with nothing extrapolated.
      torch_threads: of the reference; by default PyTorch's own choice, one a core.
    """

    methods: tuple[str, ...] = ("pfedrec", "cgfedrec")
    turns: int = 3
    rounds: int = 3
    reference_clients: int | None = None
    torch_threads: int | None = None


@dataclass(frozen=True)
class Case:
    """One comparison: what both sides run, and what is known of it.

    Attributes:
      loop: the reference's round.
      local_epochs: of both sides.
      target: the ratio that the project promises.
      published_seconds: the public release's round on this machine kind (design page §6).
      compiling_rounds: rounds of ours that meet a program for the first time.
    """

    loop: Round
    local_epochs: int
    contrast_weight: float
    target: float
    published_seconds: float
    compiling_rounds: int


CASES = {
    "pfedrec": Case(torch_loop.pfedrec_round, 1, 0.0, 100, 8.0, 1),
    "cgfedrec": Case(torch_loop.cgfedrec_round, 2, 0.005, 12, 285.0, 2),
}


def run(options: SpeedOptions) -> Table:
    """Times every chosen method; one row each."""
    if unknown := set(options.methods) - set(CASES):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    table = Table("speed", "One round, ML-100K, one user a client", options)
    data = dataset("ml-100k", options)
    problem = make_problem(data, split="loo", protocol="leak-free", seed=options.seed)
    if options.torch_threads is not None:
        if options.torch_threads < 1:
            raise InputError(f"--torch-threads {options.torch_threads}: give 1 or more")
        torch.set_num_threads(options.torch_threads)
    for name in options.methods:
        table.add(**_compare(name, CASES[name], data, problem, options, table))
    table.note(f"Both sides on this machine; torch used {torch.get_num_threads()} threads.")
    table.note("'release' is the public code's time on this machine kind, measured earlier.")
    return table


def _compare(
    name: str, case: Case, data: Dataset, problem: Problem, options: SpeedOptions, table: Table
) -> dict[str, float | int | str | None]:
    config = torch_loop.LoopConfig(
        local_epochs=case.local_epochs,
        contrast_weight=case.contrast_weight,
        clusters=12 if options.toy else 60,
    )
    steps = local_steps(
        problem,
        negatives=config.negatives,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
    )
    clients = spread(steps, options.reference_clients)
    ours = _ours(name, data, config, case, options)
    reference: list[float] = []
    peaks: list[Peaks] = []
    for turn in range(options.turns):
        reference.append(_reference(problem, config, case, clients, seed=options.seed + turn))
        ours += _ours(name, data, config, case, options)
        peaks.append(measure_peaks(size=256 if options.toy else 2048))
    if len(clients) < len(steps):
        share = float(steps[clients].sum() / steps.sum())
        reference = [seconds / share for seconds in reference]
        table.note(
            f"{name}: the reference was timed on {len(clients)} of {len(steps)} clients and "
            f"extrapolated by local steps ({share:.1%} of them)."
        )
    seconds = median(ours)
    row: dict[str, float | int | str | None] = {
        "method": name,
        "local epochs": case.local_epochs,
        "clients": len(steps),
        "local steps": int(steps.sum()),
        "release s": case.published_seconds,
        "reference s": median(reference),
        "reference min–max": f"{min(reference):.2f}–{max(reference):.2f}",
        "ours s": seconds,
        "ours min–max": f"{min(ours):.3f}–{max(ours):.3f}",
        "ratio": median(reference) / seconds,
        "target ratio": case.target,
        "clients/s": len(steps) / seconds,
        "bound s": None,
        "of bound": None,
    }
    if case.contrast_weight:
        peak = Peaks(
            flops=max(each.flops for each in peaks),
            exponentials=max(each.exponentials for each in peaks),
        )
        work = contrastive_cost(problem.num_items, config.dim).times(int(steps.sum()))
        row |= {"bound s": peak.seconds(work), "of bound": peak.seconds(work) / seconds}
        table.note(
            f"{name} needs at least {work.flops / 1e9:,.0f} GFLOP and "
            f"{work.exponentials / 1e9:,.1f} G exponentials a round for its contrastive "
            "gradients; this machine's peaks, measured with XLA between the turns: "
            f"{peak.flops / 1e9:,.0f} GFLOP/s and {peak.exponentials / 1e9:,.1f} G exp/s. "
            "'bound s' is the sum of the two, 'of bound' the fraction of that speed which a "
            "whole round reaches."
        )
    return row


def _ours(
    name: str, data: Dataset, config: torch_loop.LoopConfig, case: Case, options: SpeedOptions
) -> list[float]:
    """Seconds of each round of one fresh run."""
    extra = {"clusters": config.clusters} if name == "cgfedrec" else {}
    method = getattr(fedjax_rec.methods, name)(
        optimizer="sgd", local_epochs=case.local_epochs, **extra
    )
    rounds = case.compiling_rounds + options.rounds
    result = fedjax_rec.simulate(
        method,
        data,
        rounds=rounds,
        seed=options.seed,
        eval_every=rounds,
        devices=options.devices,
        progress=False,
    )
    return list(round_seconds(result.timings, skip=case.compiling_rounds))


def _reference(
    problem: Problem,
    config: torch_loop.LoopConfig,
    case: Case,
    clients: np.ndarray,
    *,
    seed: int,
) -> float:
    """Seconds of one round of the loop, with labels at hand where the method has them."""

    def prepared(chosen: np.ndarray) -> torch_loop.LoopState:
        state = torch_loop.init(problem, config, seed=seed, clients=chosen.tolist())
        if not case.contrast_weight:
            return state
        labels = torch_loop.item_labels(state.mean_items, clusters=config.clusters, seed=seed)
        return dataclasses.replace(state, labels=labels)

    # torch pays for its first calls: a few clients beforehand keep that out of the figure.
    case.loop(problem, prepared(clients[:4]), config, seed=seed)
    state = prepared(clients)
    start = time.perf_counter()
    case.loop(problem, state, config, seed=seed)
    return time.perf_counter() - start


def spread(steps: np.ndarray, count: int | None) -> np.ndarray:
    """Client indices evenly spread over the clients' sizes; all of them for None."""
    if count is None:
        return np.arange(len(steps))
    if not 1 <= count <= len(steps):
        raise InputError(f"--reference-clients {count}: choose from 1 to {len(steps)} clients")
    by_size = np.argsort(steps, kind="stable")
    middles = (np.arange(count) + 0.5) * len(steps) / count
    return np.sort(by_size[middles.astype(int)])


if __name__ == "__main__":
    main(SpeedOptions, run, __doc__ or "")
