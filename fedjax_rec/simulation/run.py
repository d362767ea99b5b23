"""A run under way: rounds, history, checkpoints, resuming, and what is left at the end."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pandas as pd

from fedjax_rec.errors import InputError, RunWarning
from fedjax_rec.evaluation import nmi
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.checkpoint import Checkpoint
from fedjax_rec.simulation.configuration import conflicts
from fedjax_rec.simulation.engine import Engine, State
from fedjax_rec.simulation.folder import RunFolder
from fedjax_rec.simulation.ledger import Ledger
from fedjax_rec.simulation.progress import Progress
from fedjax_rec.simulation.ranks_file import RANKS_FILE, rank_arrays
from fedjax_rec.simulation.record import json_number, metric_rows, selection_value, summarize
from fedjax_rec.simulation.result import Result
from fedjax_rec.simulation.seconds import Seconds
from fedjax_rec.simulation.storage import decode

__all__ = ["Run", "run_warnings"]

_SECONDS = ("compile", "device", "host", "eval")


class Run:
    """What accumulates over the rounds of a run, and where it is written.

    Args:
      engine: runs the rounds.
      config: the run's configuration.
      folder: where artifacts go; None: nowhere.
      progress: tells people.
      rounds: rounds of the whole run.
      eval_every: evaluate every so many rounds, and after the last.
      began: ``time.perf_counter()`` when it all began, preparation included.
    """

    def __init__(
        self,
        engine: Engine,
        config: dict[str, Any],
        folder: RunFolder | None,
        progress: Progress,
        *,
        rounds: int,
        eval_every: int,
        began: float,
    ) -> None:
        self.engine = engine
        self.config = config
        self.folder = folder
        self.progress = progress
        self.rounds = rounds
        self.eval_every = eval_every
        self.round = 0
        self.history: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self.warnings: list[str] = []  # what rounds warned of, each text once
        self.ledger = Ledger()
        self.download_values: int | None = None  # of the largest download so far
        self.ranks: Mapping[str, np.ndarray] = {}  # of the best round so far
        self.spent = Seconds()  # since the last evaluated round
        self.earlier_seconds = 0.0  # wall time of the sittings before this one
        self._best: float | None = None  # its value on validation
        self._began = began

    def begin(self) -> None:
        """Writes what is known before the first round; on resume, the history so far."""
        if self.folder:
            self.folder.write_json("config.json", self.config)
            self.folder.write_metrics(self.history)
            if self.round < self.rounds:  # a summary says that the run has ended
                self.folder.remove("summary.json")

    def go(self, state: State, checkpoint_every: int) -> State:
        """Runs the rounds that are left."""
        with _Interruptible(self.progress, enabled=self.folder is not None) as interrupt:
            while self.round < self.rounds:
                with distribution.lost_process_told(f"round {self.round + 1}"):
                    state = self._one_round(state)
                    last = self.round == self.rounds
                    asked = distribution.any_process(interrupt.asked)
                    if self.folder and (last or asked or self.round % checkpoint_every == 0):
                        self._save(state)
                if asked and not last:
                    self.progress.say(
                        f"stopped after round {self.round}; add --resume to go on from here"
                    )
                    raise KeyboardInterrupt
        return state

    def _one_round(self, state: State) -> State:
        number = self.round + 1
        evaluate = number % self.eval_every == 0 or number == self.rounds
        with run_warnings() as said:
            state, outcome = self.engine.run_round(state, number, evaluate=evaluate)
        self.round = number
        self._warn(said)
        self.ledger.add(outcome.bytes)
        self.download_values = max(self.download_values or 0, outcome.bytes.down_values)
        self.spent += outcome.seconds
        self.timings.append(_timing(number, outcome))
        rows: list[dict[str, Any]] = []
        if evaluate:
            extra = _server_figures(self.engine, state.server)
            epsilon = self.engine.epsilon(number)
            if epsilon is not None:  # of a client that took part in every round: an upper bound
                extra |= {"epsilon": epsilon, "epsilon_per_round": self.engine.epsilon(1)}
            problem = self.engine.problem
            rows = metric_rows(number, outcome, problem, self.ledger, self.spent, extra)
            self.spent = Seconds()
            self.history += rows
            if outcome.ranks is not None and self._is_best(rows):
                self.ranks = outcome.ranks
            if self.folder:
                self.folder.append_metrics(rows)
        self.progress.round(number, outcome, rows)
        return state

    def _is_best(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether these rows, the latest, are of the best round so far; the earliest wins a tie."""
        problem = self.engine.problem
        (value,) = (selection_value(row, problem) for row in rows if row["split"] == "val")
        best, self._best = self._best, value if self._best is None else max(self._best, value)
        return best is None or value > best

    def _warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            if text not in self.warnings:
                self.warnings.append(text)
                self.progress.say(f"warning: {text} (round {self.round})")

    def _save(self, state: State) -> None:
        folder = self.folder
        assert folder is not None
        start = time.perf_counter()
        record = {
            "config": self.config,
            "history": self.history,
            "timings": self.timings,
            "warnings": self.warnings,
            "uplink": self.ledger.up,
            "downlink": self.ledger.down,
            "download_values": self.download_values,
            "spent": list(self.spent),
            "wall_seconds": self._wall_seconds(),
        }
        server = self.engine.server_state(state)
        clients = self.engine.client_states(state)
        checkpoint = Checkpoint(self.round, server, clients, record, self.ranks)
        distribution.lead(lambda: folder.checkpoints.save(checkpoint))
        self.timings[-1]["checkpoint_seconds"] = time.perf_counter() - start

    def resume(self, state: State) -> State:
        """Takes up the last checkpoint, or stays at the beginning when there is none."""
        assert self.folder is not None
        checkpoints = self.folder.checkpoints
        latest = checkpoints.latest_round()
        distribution.must_agree(
            str(latest),
            f"the processes find different checkpoints in {self.folder.path}: "
            "name an --out that all of them see",
        )
        saved = self.folder.config() if latest is None else checkpoints.record(latest)["config"]
        different = conflicts(saved, self.config) if saved is not None else []
        if different:
            raise InputError(
                f"{self.folder.path} holds another run ({'; '.join(different)}): "
                "use its configuration, or another --out"
            )
        if latest is None:
            return state
        if latest > self.rounds:
            raise InputError(
                f"{self.folder.path} is at round {latest} already: use --rounds {latest} or more"
            )
        shapes = self.engine.client_shapes()
        server = self.engine.server_shapes(state)
        found = checkpoints.load(latest, server, shapes, scratch=self.engine.scratch_folder)
        self.round = found.round
        self.history = found.record["history"]
        validation = [row for row in self.history if row["split"] == "val"]
        problem = self.engine.problem
        self._best = max((selection_value(row, problem) for row in validation), default=None)
        self.ranks = found.ranks
        self.download_values = found.record.get("download_values")  # not in the oldest checkpoints
        self.timings = found.record["timings"]
        self.warnings = found.record["warnings"]
        self.ledger = Ledger(found.record["uplink"], found.record["downlink"])
        self.spent = Seconds(*found.record["spent"])
        self.earlier_seconds = found.record["wall_seconds"]
        return self.engine.restore(found.server, found.clients)

    def _wall_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self._began

    def finish(self, state: State, notes: Sequence[str]) -> Result:
        """Writes what is written at the end, and returns the result."""
        engine, problem = self.engine, self.engine.problem
        total = Seconds()
        for row in self.timings:
            total += Seconds(*(row[f"{name}_seconds"] for name in _SECONDS))
        summary = {
            "method": engine.method.name,
            "label": self.config["label"],
            "data": problem.dataset.name,
            "protocol": problem.protocol,
            "split": problem.split,
            "evaluate_at": engine.evaluate_at,
            "seed": engine.seed,
            **summarize(
                self.history,
                problem,
                rounds=self.round,
                seconds=total,
                trained_clients=sum(row["clients"] for row in self.timings),
                wall_seconds=self._wall_seconds(),
            ),
            "client_state_values": _values_of_one(engine),
            "download_values": self.download_values,
            "epsilon": engine.epsilon(self.round),
            "warnings": [*notes, *self.warnings],
        }
        if self.folder:
            arrays = _item_arrays(engine, state)
            if arrays:
                self.folder.write_arrays("embeddings.npz", arrays)
            if self.ranks:
                arrays = rank_arrays(problem, summary["best_round"], self.ranks)
                self.folder.write_arrays(RANKS_FILE, arrays)
            self.folder.write_json("summary.json", summary)
        return Result(
            method=engine.method,
            problem=problem,
            history=pd.DataFrame(self.history),
            summary=summary,
            timings=pd.DataFrame(self.timings),
            server_state=engine.server_state(state),
            out=self.folder.path if self.folder else None,
            fetch_client_states=lambda: decode(engine.client_states(state)),
        )


def _timing(number, outcome):
    seconds = dict(zip(_SECONDS, outcome.seconds, strict=True))
    return {
        "round": number,
        "clients": outcome.participants,
        "seconds": outcome.seconds.total,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "checkpoint_seconds": 0.0,
    }


def _values_of_one(engine):
    """Numbers in the state that a client keeps between rounds, optimizer moments included."""
    leaves = jax.tree.leaves(engine.client_shapes())
    return sum(leaf.size for leaf in leaves) // engine.problem.num_clients


def _server_figures(engine, server):
    """What the server's state looks like after a round, for the history."""
    method, truth = engine.method, engine.problem.dataset.item_cluster
    out: dict[str, Any] = {
        name: json_number(value) for name, value in method.diagnostics(server).items()
    }
    labels = method.item_view(server).get("labels")
    if labels is None:
        return out
    sizes = np.unique(labels, return_counts=True)[1]
    out["communities"] = len(sizes)
    if truth is not None:
        out["nmi"] = nmi(labels, truth)
    out["cluster_sizes"] = sorted(sizes.tolist(), reverse=True)
    return out


@contextmanager
def run_warnings() -> Iterator[list[str]]:
    """Collects the texts of the RunWarnings raised meanwhile; all others go where they would."""
    texts: list[str] = []
    with warnings.catch_warnings():
        # Python would show each line of code that warns once a process: neither once a run nor
        # where the run's other lines go.
        warnings.simplefilter("always", RunWarning)
        show = warnings.showwarning

        def listen(message, category, *where, **options):
            if issubclass(category, RunWarning):
                texts.append(str(message))
            else:
                show(message, category, *where, **options)

        warnings.showwarning = listen
        yield texts


def _item_arrays(engine, state):
    """The server's view of the items; nothing where the method has no embeddings of them."""
    dataset = engine.problem.dataset
    arrays = dict(engine.method.item_view(state.server))
    if "item_embeddings" not in arrays:
        return {}
    arrays["item_id"] = np.asarray(dataset.item_ids, str)
    if dataset.item_titles is not None:
        arrays["title"] = np.asarray(dataset.item_titles, str)
    if dataset.item_cluster is not None:
        arrays["truth"] = dataset.item_cluster
    return arrays


class _Interruptible:
    """Turns the first Ctrl-C, or a scheduler's SIGTERM, into a wish to stop after the round; the
    second acts at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, progress: Progress, *, enabled: bool) -> None:
        self.asked = False
        self._progress = progress
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interruptible:
        if self._enabled:
            self._previous = {s: signal.signal(s, self._on_interrupt) for s in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None: a handler that is not Python's, such as that of JAX's preemption service.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_interrupt(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.say("stopping after this round, with a checkpoint (Ctrl-C again: at once)")
