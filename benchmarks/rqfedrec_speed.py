"""One RQFedRec round against a lean per-client PyTorch loop of the same work, split into its parts.

Both sides draw as many samples, take as many Adam steps over the rows that a client touches, and as
many steps of conjugate gradients to fit the codebooks; `torch_rqfedrec.py` is the loop. Turns
alternate (ours, the reference, ours, …), so that a machine that slows down in between slows both.
Re-coding is scikit-learn's k-means on the host and would be the same on either side: it is timed,
and stands beside the round, not in the ratio.

Ours trains by the native kernel unless ``--kernel xla`` says otherwise.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import ratio_settings
import torch
import torch_rqfedrec
from harness import Options, Table, dataset, main, median
from roofline import local_steps, measure_stream

from fedjax_rec.data import Dataset, Problem, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses.kernel_choice import use_kernel
from fedjax_rec.methods import Method
from fedjax_rec.methods.rqfedrec import RQFedRecConfig
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine, State

__all__ = ["RQFedRecSpeedOptions", "run"]

FEDERATION = "ml-1m-ratio"
TARGET = 3.0
VECTOR_WIDTH = 384  # of the stand-ins for content, as the sentence encoders' vectors
RECODE_EVERY = 10  # τ, rounds that share the time of a re-coding
# Passes over an array as large as a client's items, an Adam step of each side, but for the rows of
# the batch. Ours: x, m and v read, x written. PyTorch: the gradient cleared, and its fused kernel,
# which reads all four and writes three. The least: ours.
TABLE_PASSES = {"ours": 4, "reference": 8, "least": 4}
# With weight decay and XLA's kernel every row has a gradient, and XLA passes over the table once
# for each of m, v and x, with the gradient beside it: it is cleared (1), and 3 arrays are read and
# 1 written (12). The least is then a fused kernel without a gradient of the table's size.
DECAYED_PASSES = {"ours": 13, "reference": 8, "least": 6}
# The native kernel reads and writes x, m and v of the rows that a batch gathers, and no others.
NATIVE_PASSES = 6
# Likewise a step of the fit: passes over the codebooks, and over the items to be fitted (what they
# move by, what is left of them, the same weighted). The least: the change, the direction and the
# gradient read and written.
CODEBOOK_PASSES = {"ours": 13, "reference": 13, "least": 6}
ITEM_PASSES = {"ours": 0, "reference": 7, "least": 0}


@dataclass(frozen=True)
class RQFedRecSpeedOptions(Options):
    """Options of this benchmark.

    Attributes:
      turns: timed rounds of each side, after one that compiles.
      kernel: of ours: native (needs a C++ compiler) or xla.
      dim: d.
      weight_decay: of both sides; by default that of the quality runs. Without it our Adam passes
        over the table once a step.
      our_clients: run ours on the first N clients only, and extrapolate; by default all.
      reference_clients: likewise the reference.
      torch_threads: of the reference; by default PyTorch's own choice, one a core.
    """

    turns: int = 3
    kernel: Literal["native", "xla"] = "native"
    dim: int = 512
    weight_decay: float | None = None
    our_clients: int | None = None
    reference_clients: int | None = None
    torch_threads: int | None = None


class Parts(NamedTuple):
    """Seconds of a round of all clients."""

    training: float
    fit: float

    @property
    def total(self) -> float:
        return self.training + self.fit


def run(options: RQFedRecSpeedOptions) -> Table:
    """Times both sides in turns; one row."""
    with use_kernel(options.kernel):
        return _run(options)


def _run(options: RQFedRecSpeedOptions) -> Table:
    for name in ("turns", "dim", "our_clients", "reference_clients", "torch_threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if options.torch_threads is not None:
        torch.set_num_threads(options.torch_threads)
    table = Table("rqfedrec_speed", "One RQFedRec round, ML-1M, 100 silos", options)
    data = dataset(FEDERATION, options)
    whole, ours, theirs = (
        _problem(data, options, limit)
        for limit in (None, options.our_clients, options.reference_clients)
    )
    with tempfile.TemporaryDirectory() as folder:
        content = _content(data, Path(folder), options.seed)
        method = _method(data, content, options)
        short = _method(data, content, options, fit_steps=1)
        our_rounds = _Ours(method, short, ours, options)
    config: RQFedRecConfig = method.config
    everyone = range(theirs.num_clients)
    clients = torch_rqfedrec.clients_of(theirs, everyone, config, seed=options.seed)

    def extrapolated(parts: Parts, part: Problem) -> Parts:
        """Training goes by local steps; a fit is of as many items for every client."""
        steps = [float(_steps(problem, config).sum()) for problem in (whole, part)]
        return Parts(
            parts.training * steps[0] / steps[1],
            parts.fit * whole.num_clients / part.num_clients,
        )

    mine: list[Parts] = []
    other: list[Parts] = []
    for turn in range(options.turns):
        mine.append(extrapolated(our_rounds.run(), ours))
        received = torch_rqfedrec.download(our_rounds.channels, config)
        if turn == 0:  # torch pays for its first calls
            torch_rqfedrec.run_round(clients[:1], received, config, seed=options.seed)
        round_ = torch_rqfedrec.run_round(clients, received, config, seed=options.seed + turn)
        other.append(extrapolated(Parts(round_.training_seconds, round_.fit_seconds), theirs))

    our_median, their_median = _medians(mine), _medians(other)
    ratio = their_median.total / our_median.total
    steps = int(_steps(whole, config).sum())
    row: dict[str, Any] = {
        "kernel": options.kernel,
        "clients": whole.num_clients,
        "items": whole.num_items,
        "dim": config.dim,
        "codewords": f"{config.levels} × {config.codewords}",
        "local steps": steps,
        "reference s": their_median.total,
        "reference training s": their_median.training,
        "reference fit s": their_median.fit,
        "reference min–max": _range(other),
        "ours s": our_median.total,
        "ours training s": our_median.training,
        "ours fit s": our_median.fit,
        "ours min–max": _range(mine),
        "ratio": ratio,
        "target ratio": TARGET,
        "re-coding s": median(our_rounds.recoding),
        f"re-coding s a round, every {RECODE_EVERY}": median(our_rounds.recoding) / RECODE_EVERY,
    }
    row |= _memory(whole, config, steps, our_median, native=options.kernel == "native")
    row["verdict"] = "toy" if options.toy else "ok" if ratio >= TARGET else "misses"
    table.add(**row)
    for side, part in (("Ours", ours), ("The reference", theirs)):
        if part.num_clients < whole.num_clients:
            table.note(
                f"{side}: measured on the first {part.num_clients} of {whole.num_clients} clients "
                "and extrapolated, training by local steps, the fit by clients."
            )
    _explain(table, config)
    return table


class _Ours:
    """Our rounds. Where the time goes is told by a second engine, whose fit takes one step."""

    def __init__(
        self, method: Method, short: Method, problem: Problem, options: RQFedRecSpeedOptions
    ) -> None:
        mesh = client_mesh(options.devices)
        self.fit_steps = method.config.fit_steps
        self.engines = [Engine(each, problem, mesh, seed=options.seed) for each in (method, short)]
        self.states: list[State] = [engine.initial_state() for engine in self.engines]
        self.number = 0
        self.recoding: list[float] = []
        self.run()  # compiles; and only after it there are two channels
        self.recoding.clear()

    @property
    def channels(self):
        return self.states[0].server.channels

    def run(self) -> Parts:
        """One round of each engine."""
        self.number += 1
        seconds = []
        for index, engine in enumerate(self.engines):
            self.states[index], outcome = engine.run_round(self.states[index], self.number)
            seconds.append(outcome.seconds.device)
            if index == 0:
                self.recoding.append(outcome.seconds.host)
        long, short = seconds
        fit = max(long - short, 0.0) * self.fit_steps / (self.fit_steps - 1)
        return Parts(long - fit, fit)


def _problem(data: Dataset, options: RQFedRecSpeedOptions, limit: int | None) -> Problem:
    clients = 10 if options.toy else None  # the data's own silos
    return make_problem(data, split="ratio", seed=options.seed, clients=clients, client_limit=limit)


def _content(data: Dataset, folder: Path, seed: int) -> Path:
    """Random vectors in the place of content: what codes they give does not change the work."""
    path = folder / "content.npz"
    vectors = np.random.default_rng(seed).normal(size=(data.num_items, VECTOR_WIDTH))
    np.savez(path, item_id=data.item_ids, embedding=vectors.astype(np.float32))
    return path


def _method(data: Dataset, content: Path, options: RQFedRecSpeedOptions, **changes: Any) -> Method:
    """At the settings of the quality runs, with both channels from the second round on."""
    both = {"recode_every": 1, "warmup": 1000, "semantics": str(content)}
    if options.weight_decay is not None:
        changes |= {"weight_decay": options.weight_decay}
    built = ratio_settings.build(
        "rqfedrec", FEDERATION, data, dim=options.dim, toy=options.toy, **(both | changes)
    )
    if built.config.fit_steps < 2 and "fit_steps" not in changes:
        raise InputError("fit_steps=1 leaves nothing to tell the fit from training: give 2 or more")
    return built


def _steps(problem: Problem, config: RQFedRecConfig) -> np.ndarray:
    return local_steps(
        problem,
        negatives=config.negatives,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
    )


def _medians(rounds: list[Parts]) -> Parts:
    """Of the totals' median round: its parts add up to it."""
    return sorted(rounds, key=lambda parts: parts.total)[(len(rounds) - 1) // 2]


def _range(rounds: list[Parts]) -> str:
    totals = [parts.total for parts in rounds]
    return f"{min(totals):.2f}–{max(totals):.2f}"


def _memory(
    problem: Problem, config: RQFedRecConfig, steps: int, ours: Parts, *, native: bool
) -> dict[str, float]:
    """Bytes a client, by the passes above, and the time that the least of them takes."""
    items = 4 * problem.num_items * config.dim
    books = 4 * 2 * config.levels * config.codewords * config.dim  # of both channels
    a_client = steps / problem.num_clients

    def moved(side: str) -> float:
        # Both channels are fitted to the items one after the other, or at once.
        fits = 2 if config.fit == "separate" else 1
        fit = CODEBOOK_PASSES[side] * books + ITEM_PASSES[side] * fits * items
        passes = DECAYED_PASSES if config.weight_decay else TABLE_PASSES
        table = passes[side] * items
        if native and side != "reference":
            gathered = min(config.batch_size, problem.num_items)  # at most: some come twice
            table = NATIVE_PASSES * 4 * gathered * config.dim
        return table * a_client + fit * config.fit_steps

    speed = measure_stream(3 * items)
    bound = moved("least") * problem.num_clients / speed
    return {
        "reference GB a client": moved("reference") / 1e9,
        "ours GB a client": moved("ours") / 1e9,
        "least GB a client": moved("least") / 1e9,
        "stream GB/s": speed / 1e9,
        "bound s": bound,
        "of bound": bound / ours.total,
    }


def _explain(table: Table, config: RQFedRecConfig) -> None:
    table.note(
        f"{config.local_epochs} local epochs, batches of {config.batch_size}, "
        f"{config.negatives} negatives, Adam, weight decay {config.weight_decay:g}; "
        f"{config.fit_steps} steps of {config.fit_solver}, fit {config.fit}; torch used "
        f"{torch.get_num_threads()} threads. Random vectors stand for the items' content."
    )
    table.note(
        "'fit': from rounds whose fit takes one step; the server's sums are in our training and "
        "in the reference's fit."
    )
    table.note(
        "'GB': passes over arrays of the size of a client's items and codebooks, cached or not, "
        "without the batches' own rows. The fit makes, weights and adds up again a few items at a "
        "time, so no array of items is written; an upload is added to the sum where it is."
    )
    table.note(
        "'stream': XLA scaling an array of the size of a client's items and moments, on every "
        "device at once. 'bound s' is the least bytes at that speed; more than it 'of bound' where "
        "caches help between the passes."
    )


if __name__ == "__main__":
    main(RQFedRecSpeedOptions, run, __doc__ or "")
