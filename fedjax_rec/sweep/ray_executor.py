"""Trials on a Ray cluster: one task each, which runs the same process as on this machine.

The cluster is the one that ``RAY_ADDRESS`` names (or that runs on this machine), else one of this
machine's own, for the sweep's time. All its machines must see the sweep's folder, and the data,
under the same paths, and have this package installed. A cluster that wants a token takes it as
Ray's documentation says (``RAY_AUTH_MODE=token``); Ray makes one for a cluster of its own.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from fedjax_rec.errors import InputError
from fedjax_rec.sweep.process import Ending, Job, run_to_end

__all__ = ["RayExecutor"]

_LOST_MACHINES = 3  # how often a trial moves to another machine when its own is lost


class RayExecutor:
    """Ray tasks.

    Args:
      slots: how many at a time; None: as many as the cluster has room for when the sweep starts.
      cpus: that a trial is given.
      gpus: that a trial is given.

    Raises:
      InputError: Ray is not installed, no cluster answers, or it has no room for a single trial.
    """

    def __init__(self, slots: int | None, *, cpus: float, gpus: float) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # an optional extra
        except ImportError:
            raise InputError(
                "--executor ray needs Ray: pip install 'fedjax-rec[ray]', or use --executor local"
            ) from None
        self._ray = ray
        # Ray reports its use to its makers unless told not to: not from other people's sweeps.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(log_to_driver=False, logging_level="warning")
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"no Ray cluster answers: {reason}; see RAY_ADDRESS, and RAY_AUTH_MODE where "
                    "it wants a token"
                ) from None
        room = self._room(cpus, gpus)
        if room < 1:
            self.close()
            raise InputError(
                f"the Ray cluster has no machine for a trial of {cpus:g} CPUs and {gpus:g} GPUs: "
                "ask for less with --cpus-per-trial and --gpus-per-trial"
            )
        self.slots = room if slots is None else slots
        # A task is run again when its machine is lost, and goes on from the run's checkpoint; an
        # error of the trial's own is an ending like others, and no reason to repeat it.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": _LOST_MACHINES}
        self._task = ray.remote(**options)(run_to_end)
        self._running: dict[Any, str] = {}

    def start(self, job: Job) -> None:
        self._running[self._task.remote(job, job.environment())] = job.name

    def ended(self) -> dict[str, Ending]:
        running = list(self._running)
        if not running:
            return {}
        ready, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        return {self._running.pop(task): self._ending(task) for task in ready}

    def stop(self) -> None:
        for task in self._running:
            self._ray.cancel(task)

    def kill(self) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._ray.wait(list(self._running), num_returns=len(self._running))

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _ending(self, task: Any) -> Ending:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Ending(None, " ".join(str(error).split())[:300])

    def _room(self, cpus: float, gpus: float) -> int:
        """How many trials fit, machine by machine."""
        room = 0.0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                wanted = {"CPU": cpus, "GPU": gpus}
                room += min(
                    (has.get(name, 0.0) // need for name, need in wanted.items() if need > 0),
                    default=0.0,
                )
        return int(room)
