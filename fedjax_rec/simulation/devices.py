"""Which devices the client axis is sharded over."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from fedjax_rec.errors import InputError
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.clients import AXIS

__all__ = ["client_mesh", "describe_devices"]


def client_mesh(devices: int | None = None) -> Mesh:
    """A one-dimensional mesh for the client axis, over the devices of all processes.

    XLA's CPU backend leaves the second core idle in small steps, unless every core is a device of
    its own. So on a CPU, if JAX has not started its backend yet, one device a core is set up.

    Args:
      devices: how many devices to use, of each process; None: all that there are.

    Raises:
      InputError: more devices than there are, a number that can no longer be set because JAX has
        already started, or processes with different numbers of devices.
    """
    if devices is not None and devices < 1:
        raise InputError(f"devices={devices} must be at least 1")
    wanted = devices or len(os.sched_getaffinity(0))
    # Refused once the backend has started; what it started with is then what there is.
    started = False
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:
        started = True
    found = jax.local_devices()
    if devices is not None and devices > len(found):
        remedy = (
            "; JAX had already started, so set the number before its first use: "
            f'jax.config.update("jax_num_cpu_devices", {devices})'
            if started and found[0].platform == "cpu"
            else ""
        )
        raise InputError(f"devices={devices} but JAX has {len(found)}{remedy}")
    count = devices or len(found)
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    counts = {process: len(its) for process, its in by_process.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the processes have different numbers of devices ({counts}): "
            "give all of them the same --devices"
        )
    distribution.must_agree(str(count), "the processes differ in --devices: give all the same")
    chosen = [device for its in by_process.values() for device in its[:count]]
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def describe_devices(mesh: Mesh) -> dict[str, str | int]:
    """{"platform", "kind", "count", "processes"} of a mesh, for the run's record."""
    first = mesh.devices.flat[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": int(mesh.size),
        "processes": distribution.processes(),
    }
