"""Rounds of FedNCF, FedRAP and GPFedRec against per-client PyTorch loops of the same work.

Both sides start each turn from the state of our run, with the same hyper-parameters, epochs, batch
size, negatives, optimizer and rule of early stop; `torch_baselines.py` has the loops, and its tests
hold that a round of either side ends in the same parameters. Turns alternate (ours, the reference,
ours, …), so that a machine that slows down in between slows both. Draws, shuffling and the
server's work are inside both timings; compilation and evaluation are outside ours (the loops have
neither).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import Options, Table, dataset, main, median
from roofline import local_steps
from speed import spread
from torch_baselines import LOOPS, Form, State, run_round

import fedjax_rec
from fedjax_rec.data import Problem, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine

__all__ = ["BaselinesSpeedOptions", "run"]

TARGET = 10.0
FORMS: tuple[Form, ...] = ("release", "lean")


@dataclass(frozen=True)
class BaselinesSpeedOptions(Options):
    """Options of this benchmark.

    Attributes:
      methods: which to time.
      turns: timed rounds of each side, after one of ours that compiles.
      reference_clients: time the reference on this many clients, evenly spread over the sizes, and
        extrapolate; 0: on all of them, with nothing extrapolated.
      torch_threads: of the reference; every number is tried, and the fastest counts. By default 1
        and one a core.
    """

    methods: tuple[str, ...] = tuple(LOOPS)
    turns: int = 3
    reference_clients: int = 200
    torch_threads: tuple[int, ...] | None = None


class Parts(NamedTuple):
    """Seconds of a round of all clients."""

    training: float
    server: float

    @property
    def total(self) -> float:
        return self.training + self.server


class Turn(NamedTuple):
    """One turn.

    Attributes:
      ours: seconds of our round.
      bare: seconds of a round in which our server does nothing; None where that was not run.
      reference: the reference's, by form and torch's threads.
      steps: the reference's steps as a share of those without early stop.
    """

    ours: float
    bare: float | None
    reference: dict[tuple[Form, int], Parts]
    steps: float

    def fastest(self, form: Form) -> Parts:
        """Of the threads tried, those that are fastest at each part."""
        tried = [parts for (of, _), parts in self.reference.items() if of == form]
        return Parts(*(min(seconds) for seconds in zip(*tried, strict=True)))


def run(options: BaselinesSpeedOptions) -> Table:
    """Times every chosen method; one row each."""
    _check(options)
    table = Table("baselines_speed", "One round, ML-100K, one user a client", options)
    problem = make_problem(dataset("ml-100k", options), split="loo", seed=options.seed)
    cores = len(os.sched_getaffinity(0))
    threads = options.torch_threads or tuple(sorted({1, cores}))
    for name in options.methods:
        method = getattr(fedjax_rec.methods, name)()
        config = method.config
        planned = local_steps(
            problem,
            negatives=config.negatives,
            batch_size=config.batch_size,
            local_epochs=config.local_epochs,
        )
        clients = spread(planned, options.reference_clients or None)
        turns = list(_turns(method, problem, clients, planned, threads, options))
        table.add(**_row(name, problem, planned, turns, options))
        stopped = median(turn.steps for turn in turns)
        early = f"; it stopped early, after {stopped:.0%} of the steps" if stopped < 1 else ""
        table.note(
            f"{name}: {config.local_epochs} local epochs, batches of {config.batch_size}, "
            f"{config.negatives} negatives, {config.optimizer}, d = {config.dim}{early}."
        )
    count = options.reference_clients or problem.num_clients
    if count < problem.num_clients:
        table.note(
            f"The reference was timed on {count} of {problem.num_clients} clients, spread over the "
            "sizes, and extrapolated: training by local steps, the sum of uploads by clients. "
            "GPFedRec's user graph is of all clients."
        )
    table.note(
        "'release': each positive draws its negatives by itself, a DataLoader makes the batches. "
        "'lean': one draw a client, batches are slices of tensors."
    )
    tried = " and ".join(map(str, threads))
    table.note(
        f"torch was timed with {tried} threads; in every turn the faster counts, for training and "
        "for the server's work by themselves."
    )
    table.note(
        "'ours server s': what a round takes less without the server's work; 'ratio of training': "
        "without it on either side. GPFedRec's server is two products of 2·K²·m·d operations each "
        "(tables by tables, weights by tables), as dense for a loop as for us: no simulator can be "
        "much faster there than the BLAS under PyTorch."
    )
    return table


def _turns(
    method: Method,
    problem: Problem,
    clients: np.ndarray,
    planned: np.ndarray,
    threads: tuple[int, ...],
    options: BaselinesSpeedOptions,
) -> Iterator[Turn]:
    """Alternates between the sides, each turn from the state of our run."""
    loop, config = LOOPS[method.name], method.config
    mesh = client_mesh(options.devices)
    engine = Engine(method, problem, mesh, seed=options.seed)
    state, _ = engine.run_round(engine.initial_state(), 1)  # compiles
    bare_engine = bare_state = None
    if method.keep_uploads:
        bare_engine = Engine(_without_server(method), problem, mesh, seed=options.seed)
        bare_state, _ = bare_engine.run_round(bare_engine.initial_state(), 1)

    share = float(planned[clients].sum() / planned.sum())

    def reference(start: State, chosen: np.ndarray, form: Form, count: int, turn: int):
        torch.set_num_threads(count)
        return run_round(
            loop,
            problem,
            start,
            config,
            clients=chosen.tolist(),
            seed=options.seed + turn,
            form=form,
        )

    for turn in range(options.turns):
        passed = turn + 1
        start = loop.state(engine.server_state(state), engine.client_states(state), passed)
        state, outcome = engine.run_round(state, passed + 1)
        bare = None
        if bare_engine is not None:
            bare_state, bare_outcome = bare_engine.run_round(bare_state, passed + 1)
            bare = bare_outcome.seconds.device
        found: dict[tuple[Form, int], Parts] = {}
        for form in FORMS:
            for count in threads:
                if turn == 0:  # torch pays for its first calls
                    reference(start, clients[:3], form, count, turn)
                timed = reference(start, clients, form, count, turn)
                server = timed.server_seconds
                if loop.finish is None:
                    server *= len(planned) / len(clients)
                found[form, count] = Parts(timed.training_seconds / share, server)
        steps = timed.steps / float(planned[clients].sum())
        yield Turn(outcome.seconds.device + outcome.seconds.host, bare, found, steps)


def _row(
    name: str,
    problem: Problem,
    planned: np.ndarray,
    turns: list[Turn],
    options: BaselinesSpeedOptions,
) -> dict[str, Any]:
    ours = [turn.ours for turn in turns]
    seconds = median(ours)
    row: dict[str, Any] = {
        "method": name,
        "clients": problem.num_clients,
        "local steps": int(planned.sum()),
    }
    ratios, training = {}, {}
    for form in FORMS:
        timed = [turn.fastest(form) for turn in turns]
        totals = [parts.total for parts in timed]
        ratios[form] = median(totals) / seconds
        training[form] = median(parts.training for parts in timed)
        row |= {
            f"{form} s": median(totals),
            f"{form} min–max": f"{min(totals):.2f}–{max(totals):.2f}",
            f"{form} server s": median(parts.server for parts in timed),
        }
    bare = [turn.bare for turn in turns if turn.bare is not None]
    row |= {
        "ours s": seconds,
        "ours min–max": f"{min(ours):.3f}–{max(ours):.3f}",
        "ours server s": max(seconds - median(bare), 0.0) if bare else None,
        "ratio": ratios["release"],
        "target ratio": TARGET,
        "ratio to lean": ratios["lean"],
        "ratio of training": training["release"] / median(bare) if bare else None,
        "clients/s": problem.num_clients / seconds,
    }
    reached = "ok" if ratios["release"] >= TARGET else "misses"
    return row | {"verdict": "toy" if options.toy else reached}


def _without_server(method: Method) -> Method:
    """The method with a server that leaves everything as it was."""
    return method._replace(server_step=lambda key, server, reduced, uploads: server)


def _check(options: BaselinesSpeedOptions) -> None:
    if unknown := set(options.methods) - set(LOOPS):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(LOOPS)}")
    if options.turns < 1:
        raise InputError(f"--turns {options.turns}: give 1 or more")
    if options.reference_clients < 0:
        raise InputError(
            f"--reference-clients {options.reference_clients}: give 1 or more, or 0 for all"
        )
    if options.torch_threads is not None and min(options.torch_threads, default=0) < 1:
        shown = " ".join(map(str, options.torch_threads)) or "()"
        raise InputError(f"--torch-threads {shown}: give one number or more, each at least 1")


if __name__ == "__main__":
    main(BaselinesSpeedOptions, run, __doc__ or "")
