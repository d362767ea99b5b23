"""The whole simulation: rounds, evaluation, checkpoints, artifacts."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from fedjax_rec.data import Dataset, Problem, Protocol, SplitName, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import EvaluateAt, Method
from fedjax_rec.simulation.checkpoint import Checkpoint, differences
from fedjax_rec.simulation.devices import client_mesh, describe_devices
from fedjax_rec.simulation.engine import Engine, Seconds, State
from fedjax_rec.simulation.folder import RunFolder
from fedjax_rec.simulation.ledger import Ledger
from fedjax_rec.simulation.progress import Progress
from fedjax_rec.simulation.record import metric_rows, selection_metric, summarize
from fedjax_rec.simulation.result import Result

__all__ = ["simulate"]

_PACKAGES = ("fedjax-rec", "jax", "jaxlib", "flax", "optax", "numpy", "igraph", "leidenalg")


def simulate(
    method: Method,
    data: Dataset | Problem,
    *,
    rounds: int | None = None,
    seed: int = 0,
    protocol: Protocol = "leak-free",
    split: SplitName = "loo",
    clients: int | None = None,
    client_limit: int | None = None,
    cohort: float | int = 1.0,
    eval_every: int = 1,
    evaluate_at: EvaluateAt | None = None,
    chunk: int | Literal["auto"] = "auto",
    devices: int | None = None,
    checkpoint_every: int = 10,
    out: str | Path | None = None,
    resume: bool = False,
    debug: bool = False,
    progress: bool = True,
    label: str | None = None,
    command: str | None = None,
) -> Result:
    """Trains a federated recommender and evaluates it.

    Args:
      method: what to train, such as ``fedjax_rec.methods.cgfedrec(clusters=60)``.
      data: a dataset, prepared here with ``split``, ``protocol``, ``clients``, ``client_limit``
        and ``seed``; or a problem, which has all that.
      rounds: communication rounds; None: the method's default.
      seed: of everything random in the run.
      protocol: "leak-free": negatives from all items outside a user's training items.
        "published": from outside the whole history, as the papers' releases do.
      split: "loo" (leave one out) or "ratio" (72/8/20).
      clients: how many clients the users are grouped into; None: one user each.
      client_limit: use the first N clients.
      cohort: clients that take part in a round: a fraction (float) or a number (int).
      eval_every: evaluate every so many rounds, and after the last.
      evaluate_at: "download" or "trained"; None: "download" under leak-free, and the point at
        which the method's own release evaluates under published.
      chunk: clients trained side by side on a device.
      devices: number of devices; None: all (on a CPU: one a core).
      checkpoint_every: rounds between checkpoints; one is written after the last round too.
      out: the run's folder; None: nothing is written.
      resume: go on with the run in ``out`` from its last checkpoint (from the beginning when it
        has none yet). Configurations must agree in all but rounds, chunk, devices and
        checkpoint_every.
      debug: client by client, without jit.
      progress: print a line a round to the standard error.
      label: the run's name in reports; None: the method's name.
      command: the command line that started it, for the record.

    Returns:
      The result. Ctrl-C ends a run with an ``out`` after the current round and a checkpoint, by
      raising KeyboardInterrupt; a second one ends it at once.

    Raises:
      InputError: options or data that cannot be used.
      TrainingError: training diverged. The last checkpoint stays.

    Example:
      >>> import fedjax_rec
      >>> data = fedjax_rec.load_dataset("synthetic", users=40, items=120)
      >>> result = simulate(fedjax_rec.methods.popularity(), data, rounds=1, progress=False)
      >>> result.summary["best_round"]
      1
    """
    began = time.perf_counter()
    rounds = method.default_rounds if rounds is None else rounds
    for name, value in (
        ("rounds", rounds),
        ("eval_every", eval_every),
        ("checkpoint_every", checkpoint_every),
    ):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    if evaluate_at not in (None, "download", "trained"):
        raise InputError(f"evaluate_at={evaluate_at!r} must be 'download' or 'trained'")
    if resume and out is None:
        raise InputError("resume needs the folder of the run: name it with out (--out)")

    problem = data
    if isinstance(data, Dataset):
        problem = make_problem(
            data,
            split=split,
            protocol=protocol,
            clients=clients,
            client_limit=client_limit,
            seed=seed,
        )
    assert isinstance(problem, Problem)
    if evaluate_at is None:
        leak_free = problem.protocol == "leak-free"
        evaluate_at = "download" if leak_free else method.published_evaluation

    mesh = client_mesh(1 if debug and devices is None else devices)
    engine = Engine(
        method,
        problem,
        mesh,
        seed=seed,
        cohort=cohort,
        chunk=chunk,
        evaluate_at=evaluate_at,
        debug=debug,
    )
    # Options that do not fit the problem are found here, before anything is written.
    state = engine.initial_state()
    config = _config(
        engine, rounds=rounds, eval_every=eval_every, evaluate_at=evaluate_at, label=label
    )
    config["run"] |= {"checkpoint_every": checkpoint_every, "chunk": chunk}
    config |= {"device": describe_devices(mesh), "versions": _versions(), "git_commit": _commit()}
    config["command"] = command

    run = _Run(engine, config, rounds=rounds, eval_every=eval_every)
    run.progress = Progress(rounds, selection_metric(problem), enabled=progress)
    if out is not None:
        run.folder = RunFolder(out, resume=resume)
        if resume:
            state = run.resume(state)
        run.folder.write_json("config.json", config)
        run.folder.write_metrics(run.history)
    for note in (*problem.notes, *_privacy_notes(method.config)):
        run.progress.say(f"note: {note}")

    state = run.go(state, checkpoint_every)
    return run.finish(state, time.perf_counter() - began)


class _Run:
    """A run under way: what accumulates over rounds, and where it is written."""

    def __init__(
        self, engine: Engine, config: dict[str, Any], *, rounds: int, eval_every: int
    ) -> None:
        self.engine = engine
        self.config = config
        self.rounds = rounds
        self.eval_every = eval_every
        self.folder: RunFolder | None = None
        self.progress: Progress
        self.round = 0
        self.saved_round = 0
        self.history: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self.ledger = Ledger()
        self.spent = Seconds()  # since the last evaluated round

    def go(self, state: State, checkpoint_every: int) -> State:
        """Runs the rounds that are left."""
        with _Interruptible(self.progress, enabled=self.folder is not None) as interrupt:
            while self.round < self.rounds:
                state = self._one_round(state)
                last = self.round == self.rounds
                if self.folder and (last or interrupt.asked or self.round % checkpoint_every == 0):
                    self._save(state)
                if interrupt.asked and not last:
                    self.progress.say(
                        f"stopped after round {self.round}; add --resume to go on from here"
                    )
                    raise KeyboardInterrupt
        return state

    def _one_round(self, state: State) -> State:
        number = self.round + 1
        evaluate = number % self.eval_every == 0 or number == self.rounds
        state, outcome = self.engine.run_round(state, number, evaluate=evaluate)
        self.round = number
        self.ledger.add(outcome.bytes, outcome.participants)
        self.spent += outcome.seconds
        self.timings.append(_timing(number, outcome))
        rows: list[dict[str, Any]] = []
        if evaluate:
            extra = _cluster_sizes(self.engine.method.item_view(state.server))
            epsilon = self.engine.epsilon(number)
            if epsilon is not None:  # of a client that took part in every round: an upper bound
                extra |= {"epsilon": epsilon, "epsilon_per_round": self.engine.epsilon(1)}
            rows = metric_rows(number, outcome, self.ledger, self.spent, extra)
            self.spent = Seconds()
            self.history += rows
            if self.folder:
                self.folder.append_metrics(rows)
        self.progress.round(number, outcome, rows)
        return state

    def _save(self, state: State) -> None:
        assert self.folder is not None
        start = time.perf_counter()
        record = {
            "config": self.config,
            "history": self.history,
            "timings": self.timings,
            "uplink": self.ledger.up,
            "downlink": self.ledger.down,
            "spent": list(self.spent),
        }
        server = jax.tree.map(np.asarray, state.server)
        clients = self.engine.client_states(state)
        self.folder.checkpoints.save(Checkpoint(self.round, server, clients, record))
        self.timings[-1]["checkpoint_seconds"] = time.perf_counter() - start

    def resume(self, state: State) -> State:
        """Takes up the last checkpoint, or stays at the beginning when there is none."""
        assert self.folder is not None
        checkpoints = self.folder.checkpoints
        latest = checkpoints.latest_round()
        if latest is None:
            self.progress.say(f"no checkpoint in {self.folder.path} yet: starting with round 1")
            return state
        saved = checkpoints.record(latest)["config"]
        different = differences(_identity(saved), _identity(self.config))
        if different:
            raise InputError(
                f"{self.folder.path} holds another run ({'; '.join(different)}): "
                "use its configuration, or another --out"
            )
        if latest > self.rounds:
            raise InputError(
                f"{self.folder.path} is at round {latest} already: use --rounds {latest} or more"
            )
        count = self.engine.problem.num_clients
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), state.clients
        )
        found = checkpoints.load(latest, state.server, shapes)
        self.round = found.round
        self.history = found.record["history"]
        self.timings = found.record["timings"]
        self.ledger = Ledger(found.record["uplink"], found.record["downlink"])
        self.spent = Seconds(*found.record["spent"])
        self.progress.say(f"resuming after round {latest}")
        return self.engine.restore(found.server, found.clients)

    def finish(self, state: State, wall_seconds: float) -> Result:
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
                wall_seconds=wall_seconds,
            ),
            "epsilon": engine.epsilon(self.round),
            "warnings": list(problem.notes),
        }
        if self.folder:
            self.folder.write_arrays("embeddings.npz", _item_arrays(engine, state))
            self.folder.write_json("summary.json", summary)
        return Result(
            method=engine.method,
            problem=problem,
            history=pd.DataFrame(self.history),
            summary=summary,
            timings=pd.DataFrame(self.timings),
            server_state=jax.tree.map(np.asarray, state.server),
            client_states=engine.client_states(state),
            out=self.folder.path if self.folder else None,
        )


_SECONDS = ("compile", "device", "host", "eval")


def _timing(number, outcome):
    seconds = dict(zip(_SECONDS, outcome.seconds, strict=True))
    return {
        "round": number,
        "clients": outcome.participants,
        "seconds": outcome.seconds.total,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "checkpoint_seconds": 0.0,
    }


def _cluster_sizes(view):
    if "labels" not in view:
        return {}
    sizes = np.bincount(view["labels"])
    return {"cluster_sizes": sorted((int(s) for s in sizes if s), reverse=True)}


def _item_arrays(engine, state):
    dataset = engine.problem.dataset
    arrays = dict(engine.method.item_view(state.server))
    arrays["item_id"] = np.asarray(dataset.item_ids, str)
    if dataset.item_titles is not None:
        arrays["title"] = np.asarray(dataset.item_titles, str)
    if dataset.item_cluster is not None:
        arrays["truth"] = dataset.item_cluster
    return arrays


def _config(engine, *, rounds, eval_every, evaluate_at, label):
    """The resolved configuration, JSON-able."""
    method, problem = engine.method, engine.problem
    return {
        "method": method.name,
        "label": label or method.name,
        "method_options": dataclasses.asdict(method.config),
        "data": {
            "name": problem.dataset.name,
            "users": problem.num_users,
            "items": problem.num_items,
            "interactions": int(sum(len(x.values) for x in _held(problem))),
            "clients": problem.num_clients,
            "fingerprint": _fingerprint(problem),
            "notes": list(problem.notes),
        },
        "run": {
            "protocol": problem.protocol,
            "split": problem.split,
            "rounds": rounds,
            "seed": engine.seed,
            "cohort": engine.cohort,
            "eval_every": eval_every,
            "evaluate_at": evaluate_at,
        },
    }


def _identity(config):
    """The part of a configuration that decides a run's numbers."""
    run = {k: v for k, v in config["run"].items() if k not in _FREE}
    data = {k: v for k, v in config["data"].items() if k != "notes"}
    return {
        "method": config["method"],
        "method_options": config["method_options"],
        "data": data,
        "run": run,
    }


_FREE = ("rounds", "checkpoint_every", "chunk")


def _held(problem):
    return problem.train, problem.validation, problem.test


def _fingerprint(problem):
    """A hash of the split: the same numbers of users and items may hide another dataset."""
    digest = hashlib.sha256()
    arrays = [x for lists in _held(problem) for x in (lists.starts, lists.values)]
    for array in (*arrays, problem.client_starts, *(problem.evaluation_negatives or ())):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _privacy_notes(options):
    if getattr(options, "laplace", None) and getattr(options, "clip", None) is None:
        return (f"--laplace {options.laplace} without --clip: such noise gives no ε",)
    return ()


def _versions():
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed: nothing of it runs
    return found


def _commit():
    """The commit of the checkout that the package is run from, or None outside one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


class _Interruptible:
    """Turns the first Ctrl-C into a wish to stop after the round; the second acts at once."""

    def __init__(self, progress: Progress, *, enabled: bool) -> None:
        self.asked = False
        self._progress = progress
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._previous: Any = None

    def __enter__(self) -> _Interruptible:
        if self._enabled:
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            signal.signal(signal.SIGINT, self._previous)

    def _on_interrupt(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.say("stopping after this round, with a checkpoint (Ctrl-C again: at once)")
