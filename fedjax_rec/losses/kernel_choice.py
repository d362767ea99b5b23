"""Which kernels run: XLA's, the fused one of the pairwise pass on a GPU, or C++ on a CPU.

The choice is a context, as JAX's own of matrix precision is: read where a loss is traced, part of
the key under which JAX caches what it has traced, and gone when the context ends. So losses and
methods need no argument for it, and no run can see another's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, NamedTuple, cast

import jax

from fedjax_rec.errors import InputError
from fedjax_rec.native import prepare as prepare_native

__all__ = ["Choice", "Kernel", "chosen_kernel", "resolve_kernel", "use_kernel"]

Kernel = Literal["auto", "xla", "pallas", "native"]


class Choice(NamedTuple):
    """What is chosen.

    Attributes:
      kernel: "xla"; "pallas", the pairwise pass of losses on a GPU; "native", local training of
        matrix factorization by Adam on a CPU. What a kernel has no part in is XLA's.
      interpret: whether the Pallas kernel runs as plain JAX, on any device: for tests.
    """

    kernel: Literal["xla", "pallas", "native"] = "xla"
    interpret: bool = False


_CAPABILITY = 8.0  # Ampere: the least that Pallas' Triton backend supports
_CONTEXT = jax.make_user_context(Choice())


def resolve_kernel(kernel: Kernel, device: jax.Device) -> Literal["xla", "pallas", "native"]:
    """The form that ``kernel`` stands for on a device.

    "auto" is "xla" everywhere: nobody has measured yet on which GPUs and sizes the Pallas kernel is
    the faster one (benchmarks/pairwise_kernel.py does), and the native one needs a C++ compiler.

    Args:
      kernel: "auto", "xla", "pallas" or "native".
      device: which is to run it.

    Raises:
      InputError: an unknown name; "pallas" without a GPU of compute capability 8.0 or newer;
        "native" without a CPU to run on, or where it cannot be compiled.

    Example:
      >>> resolve_kernel("auto", jax.devices()[0])
      'xla'
    """
    if kernel not in ("auto", "xla", "pallas", "native"):
        raise InputError(f"kernel={kernel!r} must be 'auto', 'xla', 'pallas' or 'native'")
    if kernel == "native":
        if device.platform != "cpu":
            raise InputError(
                f"the native kernel is for CPUs, this device is a {device.platform.upper()}: "
                "use --kernel xla"
            )
        prepare_native()
        return "native"
    if kernel != "pallas":
        return "xla"
    if device.platform != "gpu":
        raise InputError(
            f"the pallas kernel needs a GPU (CUDA), this device is a {device.platform.upper()}: "
            "use --kernel xla"
        )
    capability = str(getattr(device, "compute_capability", ""))
    if capability.replace(".", "", 1).isdigit() and float(capability) < _CAPABILITY:
        raise InputError(
            f"the pallas kernel needs a GPU of compute capability {_CAPABILITY} or newer, "
            f"{device.device_kind} has {capability}: use --kernel xla"
        )
    return "pallas"


@contextlib.contextmanager
def use_kernel(kernel: Kernel, *, interpret: bool = False) -> Iterator[None]:
    """What is traced in this context, in this thread, uses the kernel.

    Args:
      kernel: see ``resolve_kernel``.
      interpret: run it as plain JAX, on any device: for tests.

    Raises:
      InputError: a kernel that JAX's default device cannot run.

    Example:
      >>> with use_kernel("auto"):
      ...     chosen_kernel()
      Choice(kernel='xla', interpret=False)
    """
    with _CONTEXT(
        Choice("pallas", interpret=True)
        if kernel == "pallas" and interpret
        else Choice(resolve_kernel(kernel, jax.devices()[0]))
    ):
        yield


def chosen_kernel() -> Choice:
    """What the innermost ``use_kernel`` chose; XLA's form outside of any."""
    return cast(Choice, _CONTEXT.value)
