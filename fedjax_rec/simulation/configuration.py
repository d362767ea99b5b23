"""A run's configuration on record: what was run, on what, with which software."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.data import Problem
from fedjax_rec.simulation.checkpoint import differences
from fedjax_rec.simulation.devices import describe_devices
from fedjax_rec.simulation.engine import Engine

__all__ = ["configuration", "conflicts"]

_PACKAGES = ("fedjax-rec", "jax", "jaxlib", "flax", "optax", "numpy", "igraph", "leidenalg")
# Keys of "run" that may change when a run is resumed: they do not decide its numbers.
_FREE = ("rounds", "checkpoint_every", "chunk", "state")
# What runs did that are older than the option.
_BEFORE = {"kernel": "xla"}


def configuration(
    engine: Engine, *, label: str | None, command: str | None, run: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
      engine: method, problem, seed, cohort and devices.
      label: the run's name in reports; None: the method's.
      command: the command line that started it, or None.
      run: further options of the run.
    """
    method, problem = engine.method, engine.problem
    return {
        "method": method.name,
        "label": label or method.name,
        "method_options": dataclasses.asdict(method.config),
        "data": {
            "name": problem.dataset.name,
            "users": problem.num_users,
            "items": problem.num_items,
            "interactions": sum(len(lists.values) for lists in _lists(problem)),
            "clients": problem.num_clients,
            "fingerprint": _fingerprint(problem),
            "notes": list(problem.notes),
        },
        "run": {
            "protocol": problem.protocol,
            "split": problem.split,
            "seed": engine.seed,
            "cohort": engine.cohort,
            "evaluate_at": engine.evaluate_at,
            **run,
        },
        "device": describe_devices(engine.mesh),
        "versions": _versions(),
        "git_commit": _commit(),
        "command": command,
    }


def conflicts(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What keeps a run from being resumed with the wanted configuration, in words.

    Rounds, chunk, devices, checkpoint_every and where states are kept do not decide a run's
    numbers and may change.

    Args:
      saved: the configuration on record.
      wanted: the one asked for.

    Returns:
      One phrase a difference; empty: the run can go on.
    """
    before, now = _identity(saved), _identity(wanted)
    if before["method"] != now["method"]:  # whose options then say nothing
        del before["method_options"], now["method_options"]
    prints = before["data"].pop("fingerprint"), now["data"].pop("fingerprint")
    found = differences(before, now)
    # Sizes, seed and the like say more than the fingerprint, which depends on all of them.
    if not found and prints[0] != prints[1]:
        found.append("data: other interactions under the same name and of the same size")
    return found


def _identity(config):
    """A copy of the part that decides a run's numbers, as it comes back from JSON."""
    config = json.loads(json.dumps(config))
    return {
        "method": config["method"],
        "method_options": config["method_options"],
        "data": {k: v for k, v in config["data"].items() if k != "notes"},
        "run": _BEFORE | {k: v for k, v in config["run"].items() if k not in _FREE},
    }


def _lists(problem: Problem):
    return problem.train, problem.validation, problem.test


def _fingerprint(problem):
    """A hash of the split: the same numbers of users and items may hide another dataset."""
    digest = hashlib.sha256()
    arrays = [array for lists in _lists(problem) for array in (lists.starts, lists.values)]
    for array in (*arrays, problem.client_starts, *(problem.evaluation_negatives or ())):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


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
