"""The whole simulation: rounds, evaluation, checkpoints, artifacts."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Literal

import jax

from fedjax_rec.data import Dataset, Problem, Protocol, SplitName, centralize, make_problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses.kernel_choice import Kernel, chosen_kernel, use_kernel
from fedjax_rec.methods import EvaluateAt, Method
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.configuration import configuration
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from fedjax_rec.simulation.folder import RunFolder
from fedjax_rec.simulation.lock import hold
from fedjax_rec.simulation.progress import Progress
from fedjax_rec.simulation.record import selection_metric
from fedjax_rec.simulation.result import Result
from fedjax_rec.simulation.run import Run, run_warnings
from fedjax_rec.simulation.states import StatePlace
from fedjax_rec.simulation.storage import StateDtype

__all__ = ["simulate"]


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
    state: StatePlace | Literal["auto"] = "auto",
    state_dtype: StateDtype = "float32",
    precision: Literal["default", "high"] = "default",
    kernel: Kernel = "auto",
    progress: bool = True,
    label: str | None = None,
    command: str | None = None,
) -> Result:
    """Trains a federated recommender and evaluates it.

    Where ``jax.distributed`` is initialized, all its processes must call this alike, and the
    clients are shared out over all their devices. Process 0 alone writes, into an ``out`` that all
    can read: a resumed run may have another number of processes.

    Args:
      method: what to train, such as ``fedjax_rec.methods.cgfedrec(clusters=60)``. A centralized
        reference makes one client of all users, however they are grouped.
      data: a dataset, prepared here with ``split``, ``protocol``, ``clients``, ``client_limit``
        and ``seed``; or a problem, which has all that.
      rounds: communication rounds; None: the method's default.
      seed: of everything random in the run.
      protocol: "leak-free": negatives from all items outside a user's training items.
        "published": from outside the whole history, as the papers' releases do.
      split: "loo" (leave one out) or "ratio" (72/8/20).
      clients: how many clients the users are grouped into; None: one user each.
      client_limit: use the first N clients; all items stay.
      cohort: clients that take part in a round: a fraction (float) or a number (int).
      eval_every: evaluate every so many rounds, and after the last.
      evaluate_at: "download" or "trained"; None: "download" under leak-free, and the point at
        which the method's own release evaluates under published.
      chunk: clients trained side by side on a device.
      devices: number of devices; None: all (on a CPU: one a core). With several processes, of each
        of them.
      checkpoint_every: rounds between checkpoints; one is written after the last round too.
      out: the run's folder; None: nothing is written. It gets ``config.json``, ``metrics.jsonl``,
        ``checkpoints/``, and at the end ``summary.json``, ``ranks.npz`` (every user's ranks at the
        best round, see `simulation.ranks_file`) and, where the method has embeddings of the items,
        ``embeddings.npz``.
      resume: go on with the run in ``out`` from its last checkpoint (from the beginning when it
        has none yet). Configurations must agree in all but rounds, chunk, devices, state and
        checkpoint_every.
      debug: client by client, without jit.
      state: where the clients' states are between rounds: "device", "host" (memory), "disk" (files
        in ``out``), or "auto": the nearest of them with room. On the host or the disk they stream
        through the devices; the numbers are the same.
      state_dtype: what states are kept in between rounds: "float32", "bfloat16" (half of the
        memory), "int8" (a quarter; one scale a row). Rounded stochastically.
      precision: of matrix products on an accelerator. "default": the device's fast form (TF32 on
        recent GPUs, bfloat16 passes on TPUs). "high": float32 throughout. CPUs know only that.
      kernel: "xla": float32 on any device. "pallas": losses over all pairs of items (CGFedRec,
        AlignFedRec) by a fused GPU kernel, whose products follow ``precision``. "native": local
        training of matrix factorization by Adam (RQFedRec, FedMF, FedCIA) in C++ on a CPU; needs a
        C++ compiler. "auto": "xla". What a kernel has no part in stays XLA's. On record is what
        was used.
      progress: print a line a round to the standard error.
      label: the run's name in reports; None: the method's name.
      command: the command line that started it, for the record.

    Returns:
      The result. Ctrl-C ends a run with an ``out`` after the current round and a checkpoint, by
      raising KeyboardInterrupt; a second one ends it at once.

    Raises:
      InputError: options or data that cannot be used; an ``out`` that another process writes to.
      TrainingError: training diverged, or another process was lost. The last checkpoint stays.

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
    if precision not in ("default", "high"):
        raise InputError(f"precision={precision!r} must be 'default' or 'high'")
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
    if method.centralized:
        problem = centralize(problem)
    if evaluate_at is None:
        leak_free = problem.protocol == "leak-free"
        evaluate_at = "download" if leak_free else method.published_evaluation

    mesh = client_mesh(1 if debug and devices is None else devices)
    with contextlib.ExitStack() as stack:
        stack.enter_context(distribution.lost_process_told("before the first round"))
        if precision == "high":
            stack.enter_context(jax.default_matmul_precision("highest"))
        stack.enter_context(use_kernel(kernel))
        # Options that do not fit the problem are found here, before anything is written.
        with run_warnings() as said:
            engine = Engine(
                method,
                problem,
                mesh,
                seed=seed,
                cohort=cohort,
                chunk=chunk,
                evaluate_at=evaluate_at,
                debug=debug,
                state=state,
                state_dtype=state_dtype,
                state_folder=None if out is None else Path(out) / distribution.own("state"),
            )
        config = configuration(
            engine,
            label=label,
            command=command,
            run={
                "rounds": rounds,
                "eval_every": eval_every,
                "checkpoint_every": checkpoint_every,
                "chunk": chunk,
                "state": engine.place,
                "state_dtype": state_dtype,
                "precision": precision,
                "kernel": chosen_kernel().kernel,
            },
        )
        notes = (*problem.notes, *_privacy_notes(method.config), *said)
        _agree(config, out is not None, resume)
        leads = distribution.leads()
        show = Progress(rounds, selection_metric(problem), enabled=progress and leads)
        folder = None
        if out is not None:
            folder = distribution.lead(lambda: _open(out, resume, stack))
            if not leads:
                folder = RunFolder(out, resume=resume, writes=False)
        run = Run(engine, config, folder, show, rounds=rounds, eval_every=eval_every, began=began)
        everyone = engine.initial_state()
        stack.callback(engine.drop_files)
        if resume:
            everyone = run.resume(everyone)
        run.begin()
        show.start(method.name, problem, _devices(config["device"]))
        if resume:
            nothing = f"no checkpoint in {out} yet: starting with round 1"
            show.say(f"resuming after round {run.round}" if run.round else nothing)
        for note in notes:
            show.say(f"note: {note}")
        everyone = run.go(everyone, checkpoint_every)
        return run.finish(everyone, notes)


def _open(out, resume, stack):
    folder = RunFolder(out, resume=resume)
    stack.enter_context(hold(folder.path))
    for left in folder.path.glob("state-[0-9]*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _agree(config, writes, resume):
    """Several processes on one run: what decides its numbers, and what they do next, is alike."""
    parts = [config[key] for key in ("method", "method_options", "data", "run", "versions")]
    distribution.must_agree(
        json.dumps([parts, writes, resume], sort_keys=True),
        "the processes of this run differ in options, data or versions: give all of them the same",
    )


def _devices(device):
    text = f"{device['count']} × {device['kind']}"
    return text if device["processes"] == 1 else f"{text} in {device['processes']} processes"


def _privacy_notes(options):
    notes = []
    if getattr(options, "laplace", None) and getattr(options, "clip", None) is None:
        notes.append(f"--laplace {options.laplace} without --clip: such noise gives no ε")
    if getattr(options, "noise", None):
        notes.append(f"--noise {options.noise}: on embeddings of any length, such noise gives no ε")
    return tuple(notes)
