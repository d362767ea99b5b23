"""How a process becomes one of several of a run, and how it leaves.

By name (``--coordinator``, ``--process``, ``--processes``) or as the cluster says: JAX knows Slurm,
Open MPI and TPU pods. What the processes then do together is in ``distribution``.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import socket
import threading
import time
from typing import Any, NamedTuple

import jax

from fedjax_rec.errors import InputError

__all__ = ["Place", "cluster_detected", "join", "leave", "place"]

# A process that has died is noticed by its closed connections, at once; only one whose host is
# gone, or whose network, is noticed by the heartbeats that are missing.
_HEARTBEAT_SECONDS = 30
# An orderly goodbye takes milliseconds when all processes leave, and forever when one does not.
_GOODBYE_SECONDS = 2.0
_RETRY_SECONDS = 0.2


class Place(NamedTuple):
    """One process among those of a run.

    Attributes:
      coordinator: HOST:PORT of process 0, where all of them meet.
      process: which one this is, from 0.
      processes: how many there are.
    """

    coordinator: str
    process: int
    processes: int


def place(coordinator: str | None, process: int | None, processes: int | None) -> Place | None:
    """The place that three options name, or None where none of them is given.

    Args:
      coordinator: HOST:PORT.
      process: from 0.
      processes: at least 1.

    Raises:
      InputError: some of them are missing, out of range, or no HOST:PORT.

    Example:
      >>> place("localhost:8476", 0, 2)
      Place(coordinator='localhost:8476', process=0, processes=2)
    """
    options = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    missing = [name for name, value in options.items() if value is None]
    if len(missing) == len(options):
        return None
    if coordinator is None or process is None or processes is None:
        raise InputError(
            f"{' and '.join(missing)} missing: a run of several processes needs --coordinator "
            "HOST:PORT, --process I and --processes N"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"--coordinator {coordinator!r} is not HOST:PORT: name the host of process 0 and a "
            "free port there, such as 10.0.0.1:8476"
        )
    if processes < 1:
        raise InputError(f"--processes {processes} must be at least 1")
    if not 0 <= process < processes:
        raise InputError(
            f"--process {process} of {processes} is out of range: use 0 to {processes - 1}, "
            "another in every process"
        )
    return Place(coordinator, process, processes)


def cluster_detected() -> bool:
    """Whether this process seems to be one of several that Slurm, Open MPI or a TPU pod started.

    JAX finds the rest by itself. A job step of one task is no cluster; a TPU host may turn out to
    be alone, which does no harm.
    """
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in os.environ for name in slurm):
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_MCA_orte_hnp_uri" in os.environ:
        return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return "," in hosts
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    asks = "TPU_SKIP_MDS_QUERY" not in os.environ
    return bool(chips) and asks and importlib.util.find_spec("libtpu") is not None


def join(where: Place | None, *, seconds: int = 120) -> None:
    """Makes this process one of a run's; before anything else uses JAX's devices.

    Args:
      where: its place; None: as the cluster says, or alone where there is none.
      seconds: how long to wait until all processes have come.

    Raises:
      InputError: the coordinator cannot be reached, or its port is taken. Where some process never
        comes, XLA ends the others; their supervisors say so in a line.
    """
    if where is None and not cluster_detected():
        return
    if where is not None and where.process > 0:
        _await_coordinator(where, seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if hasattr(jax.config, "jax_enable_preemption_service"):  # not in JAX 0.8
        # It would take SIGTERM for itself. A run stops at SIGTERM by its own means.
        jax.config.update("jax_enable_preemption_service", False)
    waiting: dict[str, Any] = {
        "initialization_timeout": seconds,
        "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS,
    }
    try:
        if where is None:
            jax.distributed.initialize(**waiting)
        else:
            # A Slurm or MPI job's variables must not overrule the options.
            jax.distributed.initialize(
                *(where.coordinator, where.processes, where.process),
                cluster_detection_method="deactivate",
                **waiting,
            )
    except (RuntimeError, ValueError) as error:
        if where is None and "should be defined" in str(error):
            return  # a TPU host on its own
        raise InputError(_not_joined(where, error)) from error


def leave(*, orderly: bool) -> None:
    """Ends this process's part in a run; after it, JAX cannot be used any more.

    Args:
      orderly: wait for the others, who may still have work to do. False: they may be gone, or be
        waiting for this one, so a goodbye is only tried.
    """
    if not jax.distributed.is_initialized():
        return
    if orderly:
        jax.distributed.shutdown()
        return
    goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    goodbye.start()
    goodbye.join(_GOODBYE_SECONDS)


def _await_coordinator(where, seconds):
    """Waits until somebody listens there; XLA itself would end the process if nobody did."""
    host, _, port = where.coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS > deadline:
                raise InputError(
                    f"nobody listens at {where.coordinator} after {seconds} s "
                    f"({error.strerror or error}): start --process 0 there, see that this host can "
                    "reach that port, or wait longer with --join-seconds"
                ) from error
        time.sleep(_RETRY_SECONDS)


def _not_joined(where, error):
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if where is None:
        return (
            f"could not join the processes of this cluster ({text[:120]}): "
            "name --coordinator, --process and --processes"
        )
    port = where.coordinator.rpartition(":")[2]
    if where.process == 0 and re.search("in use|bind|listen|start", text, re.IGNORECASE):
        return f"process 0 cannot listen on port {port} ({text[:120]}): name another free port"
    return f"process {where.process} could not join at {where.coordinator} ({text[:120]})"
