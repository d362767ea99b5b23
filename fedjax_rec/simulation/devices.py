"""Which devices the client axis is sharded over."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.clients import AXIS

__all__ = ["client_mesh", "describe_devices"]


def client_mesh(devices: int | None = None) -> Mesh:
    """A one-dimensional mesh for the client axis.

    XLA's CPU backend leaves the second core idle in small steps, unless every core is a device of
    its own. So on a CPU, if JAX has not started its backend yet, one device a core is set up.

    Args:
      devices: how many devices to use; None: all that there are.

    Raises:
      InputError: more devices than there are, or a number that can no longer be set because JAX
        has already started.
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
    found = jax.devices()
    if devices is not None and devices > len(found):
        remedy = (
            "; JAX had already started, so set the number before its first use: "
            f'jax.config.update("jax_num_cpu_devices", {devices})'
            if started and found[0].platform == "cpu"
            else ""
        )
        raise InputError(f"devices={devices} but JAX has {len(found)}{remedy}")
    chosen = found if devices is None else found[:devices]
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def describe_devices(mesh: Mesh) -> dict[str, str | int]:
    """{"platform", "kind", "count"} of a mesh, for the run's record."""
    first = mesh.devices.flat[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": int(mesh.size)}
