"""The same rounds of PFedRec in Flower, FedJAX, pfl-research, PyTorch loops and ours.

Every simulator has its own environment, made here, and its own worker in `peer_workers`; all read
one file with the clients' data, the initial parameters and the settings (`peer_workers/work.py`
says what a round is). Times are medians of rounds after a warm-up, one simulator after another.
What each has trained is scored on the same samples: who did less work would show a higher loss.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import Options, Table, dataset, main, median
from peer_process import Measured, WorkerError, run_worker
from peer_venvs import PINS, InstallError, install, installed
from peer_workers import work as shared

import fedjax_rec
from fedjax_rec.data import make_problem
from fedjax_rec.errors import InputError

__all__ = ["PEERS", "Peer", "PeerOptions", "prepare", "run"]

OURS = "fedjax-rec"
WARMUP = 1  # rounds that compile, or start what is started once
JUDGED_FROM = 900  # clients: the promise is for 1,000 and more, and ML-100K's 943 count as that
WORKERS = Path(__file__).parent / "peer_workers"


@dataclass(frozen=True)
class Peer:
    """One simulator, or one way to use it.

    Attributes:
      title: in the table.
      script: its worker in `peer_workers`.
      arguments: after the two paths that every worker takes.
      environment: key of `PINS`; None: this project's own Python.
      processes: start the worker once a core, by torchrun.
      target: ours promises to be so many times as fast.
      tolerance: how far its loss may be from ours, as a share of ours.
    """

    title: str
    script: str
    arguments: tuple[str, ...] = ()
    environment: str | None = None
    processes: bool = False
    target: float | None = None
    tolerance: float = 0.05


# fed_avg's clients hold no state, so their heads are averaged: another model, hence its tolerance.
PEERS = {
    OURS: Peer("fedjax-rec", "project_worker.py", (OURS,)),
    "fedjax-bare": Peer(
        "FedJAX for_each_client", "fedjax_worker.py", ("for_each_client",), "fedjax", target=3
    ),
    "fedjax": Peer(
        "FedJAX fed_avg", "fedjax_worker.py", ("fed_avg",), "fedjax", target=10, tolerance=0.25
    ),
    "torch": Peer("PyTorch loop, lean", "torch_worker.py"),
    "torch-loop": Peer("PyTorch loop, as releases", "project_worker.py", ("torch_loop",)),
    "pfl": Peer("pfl-research", "pfl_worker.py", (), "pfl", target=30),
    "pfl-processes": Peer(
        "pfl-research, one process a core", "pfl_worker.py", (), "pfl", True, target=30
    ),
    "flower": Peer("Flower, Message API", "flower_worker.py", ("message",), "flower", target=400),
    "flower-numpy": Peer(
        "Flower, NumPyClient", "flower_worker.py", ("numpy",), "flower", target=400
    ),
}


@dataclass(frozen=True)
class PeerOptions(Options):
    """Options of the side-by-side.

    Attributes:
      peers: which to run; ours is the base of the comparison.
      clients: numbers of synthetic clients, over `items` items.
      items: m of the synthetic data.
      ml_100k: also ML-100K's 943 clients.
      rounds: rounds that count, after one warm-up.
      dim: width d of the item embeddings.
      budget: seconds that one worker may take, start to end. One that would take longer, by its
        own last figure, is not started.
      memory: share of the machine's memory that one worker may take.
      folder: of the environments and the workers' logs.
    """

    peers: tuple[str, ...] = tuple(PEERS)
    clients: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    items: int = 1_000
    ml_100k: bool = True
    rounds: int = 3
    dim: int = 32
    budget: float = 1_200
    memory: float = 0.8
    folder: Path = Path("runs/peers")


class Growth:
    """What each simulator took for fewer synthetic clients: larger runs that cannot end in time, or
    that follow on a failure, are named and not started."""

    def __init__(self, options: PeerOptions) -> None:
        self._budget = options.budget
        self._rounds = WARMUP + options.rounds
        self._last: dict[str, tuple[int, float | None]] = {}  # clients, seconds a round

    def check(self, key: str, name: str, clients: int) -> None:
        """Raises WorkerError for a run that is not worth its start."""
        if name != "synthetic" or key not in self._last:
            return
        before, seconds = self._last[key]
        if seconds is None:
            raise WorkerError(f"not run: no measurement at {before:,} clients")
        expected = self._rounds * seconds * clients / before
        if expected > self._budget:
            took = f"{before:,} clients took {seconds:,.1f} s a round"
            raise WorkerError(
                f"not run: {self._rounds} rounds would take about {expected:,.0f} s "
                f"({took}; --budget {self._budget:,.0f})"
            )

    def note(self, key: str, name: str, clients: int, measured: Measured | None) -> None:
        """Remembers a run, or that it gave no measurement (the first time it did not)."""
        if name != "synthetic" or self._last.get(key, (0, 0.0))[1] is None:
            return
        if measured is not None:
            self._last[key] = clients, median(measured.round_seconds)
        elif key not in self._last or self._last[key][1] is not None:
            self._last[key] = clients, None


def run(options: PeerOptions) -> Table:
    """One row for every simulator and dataset, whether it could be measured or not."""
    _check(options)
    if options.toy:
        options = replace(options, clients=(20,), items=60, ml_100k=False, rounds=1, dim=4)
    title = f"The same rounds of PFedRec in every simulator, d = {options.dim}, one user a client"
    table = Table("peers", title, options)
    pythons = _pythons(options)
    growth = Growth(options)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, count in _data(options):
            work = prepare(name, count, options)
            shared.save(work, Path(folder) / "work.npz")
            ours: dict[str, Any] = {}
            # Ours first, whatever the order given: the others' rows are compared with it.
            for key in sorted(options.peers, key=lambda key: key != OURS):
                row = {"simulator": PEERS[key].title, "data": name, "clients": work.num_clients}
                print(f"{name}, {work.num_clients:,} clients: {PEERS[key].title}", file=sys.stderr)
                try:
                    growth.check(key, name, work.num_clients)
                    measured = _measure(key, pythons[key], name, work, Path(folder), options)
                    row |= _figures(key, work, measured, Path(folder) / f"{key}.npz", ours)
                    growth.note(key, name, work.num_clients, measured)
                except WorkerError as error:
                    growth.note(key, name, work.num_clients, None)
                    row["status"] = str(error)
                if key == OURS:
                    ours = row
                table.add(**row)
    _notes(table, options)
    return table


def prepare(name: str, count: int, options: PeerOptions) -> shared.Work:
    """The work on one dataset: everything that is random about its start is drawn here.

    Args:
      name: "synthetic" or "ml-100k".
      count: synthetic clients.
      options: sizes, rounds, seed.
    """
    if name == "synthetic":
        data = fedjax_rec.load_dataset(name, users=count, items=options.items, seed=options.seed)
    else:
        data = dataset(name, options)
    problem = make_problem(data, split="loo", protocol="leak-free", seed=options.seed)
    rng = np.random.default_rng(options.seed)
    bound = options.dim**-0.5
    lr = 0.1
    return shared.Work(
        starts=problem.train.starts.astype(np.int64),
        positives=problem.train.values.astype(np.int32),
        items=rng.standard_normal((problem.num_items, options.dim), np.float32),
        head=rng.uniform(-bound, bound, options.dim + 1).astype(np.float32),
        batch_size=256,
        negatives=4,
        local_epochs=1,
        lr=lr,
        item_lr=lr * problem.num_items * 80,  # PFedRec's setting
        warmup=WARMUP,
        rounds=options.rounds,
        seed=options.seed,
    )


def _check(options: PeerOptions) -> None:
    if unknown := set(options.peers) - set(PEERS):
        raise InputError(f"--peers {' '.join(sorted(unknown))}: choose from {', '.join(PEERS)}")
    if not options.clients and not options.ml_100k:
        raise InputError("nothing to run: give --clients, or leave --ml-100k on")
    for name in ("items", "rounds", "dim", "budget", "memory"):
        if getattr(options, name) <= 0:
            raise InputError(f"--{name} {getattr(options, name)} must be above 0")
    if any(count < 2 for count in options.clients):
        raise InputError(f"--clients {min(options.clients)} must be 2 or more")


def _data(options: PeerOptions) -> list[tuple[str, int]]:
    synthetic = [("synthetic", count) for count in sorted(set(options.clients))]
    return [("ml-100k", 0)] * options.ml_100k + synthetic


def _pythons(options: PeerOptions) -> dict[str, Path | str]:
    """Each chosen simulator's Python; where there is none, the reason. Installs what is missing."""
    found: dict[str | None, Path | str] = {None: Path(sys.executable)}
    for key in options.peers:
        name = PEERS[key].environment
        if name is None or name in found:
            continue
        folder = (options.folder / "venvs" / name).resolve()
        if options.toy and not installed(folder, PINS[name]):
            found[name] = "not installed, and --toy installs nothing"
            continue
        try:
            found[name] = install(folder, PINS[name])
        except InstallError as error:
            found[name] = f"cannot be installed: {error}"
    return {key: found[PEERS[key].environment] for key in options.peers}


def _measure(
    key: str, python: Path | str, name: str, work: shared.Work, folder: Path, options: PeerOptions
) -> Measured:
    """Runs a simulator's worker on ``folder``/work.npz; it leaves ``folder``/KEY.npz."""
    if isinstance(python, str):
        raise WorkerError(python)
    peer = PEERS[key]
    launcher = [str(python)]
    if peer.processes:
        cores = len(os.sched_getaffinity(0))
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={cores}"]
    paths = [WORKERS / peer.script, folder / "work.npz", folder / f"{key}.npz"]
    arguments = list(peer.arguments)
    if key == OURS and options.devices is not None:
        arguments.append(str(options.devices))
    return run_worker(
        [*launcher, *map(str, paths), *arguments],
        options.folder / "logs" / f"{key}-{name}-{work.num_clients}.txt",
        seconds=options.budget,
        memory_bytes=options.memory * psutil.virtual_memory().total,
        # The same processor for all, also where one of them would find a GPU.
        environment={"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    )


def _figures(
    key: str, work: shared.Work, measured: Measured, trained: Path, ours: dict[str, Any]
) -> dict[str, Any]:
    """A row's figures; ``ours`` is our row on the same data, or empty."""
    peer, times = PEERS[key], np.asarray(measured.round_seconds)
    seconds = median(times)
    with np.load(trained, allow_pickle=False) as left:
        if not all(np.isfinite(left[name]).all() for name in ("items", "heads")):
            raise WorkerError("values that are not finite: a client was left out, or diverged")
        loss = shared.mean_loss(work, left["items"], left["heads"])
    row: dict[str, Any] = {
        "s/round": seconds,
        "min–max": f"{times.min():.3g}–{times.max():.3g}",
        "clients/s": work.num_clients / seconds,
        "ours ×": None,
        "target ×": peer.target,
        "verdict": None,
        "ours × given batches": None,
        "peak MB": measured.peak_rss_bytes / 1e6,
        "loss": loss,
        "status": "ok",
    }
    base = ours.get("s/round")
    if base is None:
        return row
    row["ours ×"] = seconds / base
    if measured.sampling_seconds:
        training = times - np.asarray(measured.sampling_seconds)
        row["ours × given batches"] = median(training) / base
    if not abs(loss - ours["loss"]) <= peer.tolerance * ours["loss"]:
        row["status"] = f"loss {loss / ours['loss'] - 1:+.0%} against ours: not the same work"
    elif peer.target is not None and work.num_clients >= JUDGED_FROM:
        row["verdict"] = _verdict(row["ours ×"], row["ours × given batches"], peer.target)
    return row


def _verdict(ratio: float, given_batches: float | None, target: float) -> str:
    if ratio < target:
        return "below"
    if given_batches is not None and given_batches < target:
        return "ok; below if given batches"
    return "ok"


def _notes(table: Table, options: PeerOptions) -> None:
    table.note(
        "A round: negatives (4 a positive) and batches of 256 made anew, one local epoch of head "
        "step and item step by SGD, mean of the item tables. All of it is timed, on both sides."
    )
    table.note(
        "'ours × given batches' leaves the making of negatives and batches out of the other "
        "side's time only; – where a simulator does not keep the two apart."
    )
    table.note(
        "Ours, Flower and pfl-research's second row use every core; the others are one process, as "
        "they come, the PyTorch loops with one thread (with two they are slower)."
    )
    table.note(
        "FedJAX fed_avg averages the heads too (its clients hold no state), hence another loss; "
        "FedJAX runs its jit backend, the pmap one needs a function that JAX 0.10 has removed."
    )
    table.note("'loss': of what each has trained, on one common draw of samples; ±5 % (25 %) pass.")
    environments = {PEERS[key].environment for key in options.peers} - {None}
    for name in sorted(str(name) for name in environments):
        table.note(f"{name}: {', '.join(PINS[name])}")
    table.note(
        f"--budget {options.budget:,.0f} s and --memory {options.memory:.0%} of "
        f"{psutil.virtual_memory().total / 1e9:,.0f} GB a worker; memory counts its children."
    )


if __name__ == "__main__":
    main(PeerOptions, run, __doc__ or "")
