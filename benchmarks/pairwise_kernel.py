"""The pairwise pass with its gradient, XLA's form beside the fused GPU kernel: seconds and bounds.

For the sizes of ML-100K, ML-1M and the largest catalogue of CGFedRec's release: median seconds of a
pass, the work that each form does (operations of products, exponentials, bytes through the device's
memory), what this device needs for that work at the rates measured here just before, and the error
of the gradient against float64. On a CPU only XLA's form runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import roofline
from harness import Options, Table, main, median

from fedjax_rec.losses.kernel_choice import Kernel, use_kernel
from fedjax_rec.losses.pairwise import Alignment, Contrast, Pass, pairwise
from fedjax_rec.losses.structural import normalize
from fedjax_rec.tiles import grid, pack

__all__ = ["KernelOptions", "Rates", "Shape", "Work", "run", "work_of"]

TEMPERATURE, THRESHOLD, WEIGHT = 0.1, 0.5, 5.0
TARGET = 0.4  # of the roofline: what the issue asks of the kernel
KEPT_ITEMS = 4096  # XLA's form keeps its tiles from the first pass to the second up to here


@dataclass(frozen=True)
class KernelOptions(Options):
    """Options of this benchmark.

    Attributes:
      turns: timed passes of each form, after one that warms up.
      clients: side by side on a GPU, of the two smaller catalogues; one on a CPU.
    """

    turns: int = 10
    clients: int = 64


class Shape(NamedTuple):
    """One problem.

    Attributes:
      name: whose size.
      items: m.
      dim: d.
      align: whether the alignment is part of the loss beside the contrast.
      clients: side by side.
    """

    name: str
    items: int
    dim: int
    align: bool
    clients: int


class Form(NamedTuple):
    """One way to compute it; operands as the product's rate is measured for."""

    name: str
    kernel: Kernel
    operands: str
    precision: str


FORMS = (
    Form("xla", "xla", "float32", "default"),
    Form("pallas", "pallas", "tf32", "default"),
    Form("pallas, --precision high", "pallas", "float32", "highest"),
)


class Rates(NamedTuple):
    """What the device does a second: operations of products by operands, exponentials, bytes."""

    flops: dict[str, float]
    exponentials: float
    bytes: float


class Work(NamedTuple):
    """What a form of the pass does: operations of products, exponentials, bytes at the least."""

    flops: float
    exponentials: float
    bytes: float

    def bound(self, rates: Rates, operands: str, *, overlap: bool) -> float:
        """Seconds at the least. On a GPU other units do each kind of work, at the same time; a
        CPU's core does arithmetic of one kind or the other."""
        arithmetic = (self.flops / rates.flops[operands], self.exponentials / rates.exponentials)
        return max(max(arithmetic) if overlap else sum(arithmetic), self.bytes / rates.bytes)


def run(options: KernelOptions) -> Table:
    """Times every form of every shape; one row each."""
    device = jax.devices()[0]
    on_gpu = device.platform == "gpu"
    title = f"The pairwise pass and its gradient on {device.device_kind}"
    table = Table("pairwise_kernel", title, options)
    if not on_gpu:
        table.note("no GPU: NOT the kernel's figures. The rows are XLA's form on this device.")
    rates = _measure(on_gpu, toy=options.toy)
    for shape in _shapes(options, on_gpu):
        arrays = _arrays(shape, options.seed)
        seconds_of_xla = None
        for form in FORMS if on_gpu else FORMS[:1]:
            seconds, gradient = _timed(form, shape, arrays, options.turns)
            work = work_of(shape, form.kernel)
            bound = work.bound(rates, form.operands, overlap=on_gpu)
            seconds_of_xla = seconds_of_xla or seconds
            table.add(
                **{
                    "problem": f"{shape.name}, contrast{' + alignment' if shape.align else ''}",
                    "m": shape.items,
                    "d": shape.dim,
                    "clients": shape.clients,
                    "form": form.name,
                    "operands": form.operands,
                    "ms": 1e3 * seconds,
                    "of xla": seconds / seconds_of_xla,
                    "TFLOP": work.flops / 1e12,
                    "10⁹ exp": work.exponentials / 1e9,
                    "GB": work.bytes / 1e9,
                    "bound ms": 1e3 * bound,
                    "of roofline": bound / seconds,
                    "target": TARGET if form.operands == "tf32" else None,
                    "gradient error": _error(shape, arrays, gradient),
                }
            )
    table.note(
        "Measured rates: "
        + ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in rates.flops.items())
        + f", {rates.exponentials / 1e9:.3g}·10⁹ exp/s, {rates.bytes / 1e9:.3g} GB/s. The bound is "
        + ("the largest of the three times" if on_gpu else "arithmetic's two times, or memory's,")
        + " for the form's own work."
    )
    table.note(
        "Gradient error: the part across z, of 32 rows of the first client, ‖g − g₆₄‖/‖g₆₄‖. With "
        "an alignment, pairs whose similarity is within rounding of σ count in one of the two only."
    )
    return table


def work_of(shape: Shape, kernel: str) -> Work:
    """The work of a form of the pass with its gradient, all clients together.

    XLA's form computes pairs once and keeps what it made of them, or computes them twice beyond
    ``KEPT_ITEMS``; the kernel computes all m² entries, in each of its two launches.

    Example:
      >>> shape = Shape("ML-100K", 1682, 32, False, 1)
      >>> [round(work_of(shape, kernel).flops / 1e6) for kernel in ("xla", "pallas")]
      [272, 543]
    """
    m, d = float(shape.items), shape.dim
    pairs, parts = m * (m - 1) / 2, 1 + shape.align
    vectors, target = 4 * m * d, 4 * pairs * shape.align
    if kernel == "pallas":
        # z in, twice; straight and turned in the second launch; the gradient out.
        each = Work(6 * m * m * d, 2 * m * m, 4 * vectors)
        reads = 1
    elif shape.items <= KEPT_ITEMS:
        # What is kept of every pair goes out once and comes back once.
        each = Work(2 * pairs * d + 2 * m * m * d, pairs, 2 * vectors + 8 * pairs * parts)
        reads = 1
    else:
        each = Work(4 * pairs * d + 2 * m * m * d, 2 * pairs, 3 * vectors)
        reads = 2
    flops, exponentials, moved = (shape.clients * part for part in each)
    return Work(flops, exponentials, moved + reads * target)


def _shapes(options: KernelOptions, on_gpu: bool) -> list[Shape]:
    clients = options.clients if on_gpu else 1
    if options.toy:
        return [Shape("toy", 90, 16, align, 2) for align in (False, True)]
    return [
        Shape("ML-100K", 1682, 32, False, clients),
        Shape("ML-100K", 1682, 64, True, clients),
        Shape("ML-1M", 3706, 32, False, clients),
        Shape("ML-1M", 3706, 64, True, clients),
        Shape("ML-1M", 3706, 512, False, clients),
        Shape("25,612 items", 25_612, 32, False, 1),
        Shape("25,612 items", 25_612, 64, True, 1),
    ]


class _Arrays(NamedTuple):
    unit: jax.Array  # [clients, m, d]
    anchors: jax.Array  # [m]
    target: jax.Array  # [tiles, t, t]; [0] without an alignment


def _arrays(shape: Shape, seed: int) -> _Arrays:
    """Random directions in clusters, as trained items are; a target of the same kind."""
    rng = np.random.default_rng(seed)

    def directions(count: int, dim: int) -> jax.Array:
        centers = rng.standard_normal((60, dim), np.float32)
        rows = 0.5 * rng.standard_normal((count, dim), np.float32)
        return normalize(jnp.asarray(rows + centers[rng.integers(0, 60, count)]))[0]

    unit = jnp.stack([directions(shape.items, shape.dim) for _ in range(shape.clients)])
    target = jnp.zeros(0)
    if shape.align:
        target = jax.jit(_packed)(directions(shape.items, 16))
    return _Arrays(unit, jnp.ones(shape.items), target)


def _packed(unit: jax.Array) -> jax.Array:
    """The packed similarities of unit rows, tile by tile: no [m, m] array."""
    cut = grid(unit.shape[0])
    if cut.groups == 1:
        return pack(unit @ unit.T)
    groups = cut.split(unit)

    def tile(place: jax.Array) -> jax.Array:
        i, j = place
        return jnp.where(cut.pairs(i, j), groups[i] @ groups[j].T, 0.0)

    return jax.lax.map(tile, jnp.array(cut.places))


def _timed(form: Form, shape: Shape, arrays: _Arrays, turns: int) -> tuple[float, np.ndarray]:
    """Median seconds of a pass, and the first client's gradient [m, d]."""

    def one(unit: jax.Array, anchors: jax.Array, target: jax.Array) -> Pass:
        return pairwise(
            unit,
            Contrast(anchors, TEMPERATURE, 1 / shape.items),
            Alignment(target, THRESHOLD, WEIGHT) if shape.align else None,
            with_gradient=True,
        )

    every = jax.jit(jax.vmap(one, in_axes=(0, None, None)))
    with use_kernel(form.kernel), jax.default_matmul_precision(form.precision):
        program = every.lower(*arrays).compile()
    result = jax.block_until_ready(program(*arrays))
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        result = jax.block_until_ready(program(*arrays))
        seconds.append(time.perf_counter() - start)
    return median(seconds), np.asarray(result.gradient[0])


def _error(shape: Shape, arrays: _Arrays, gradient: np.ndarray, rows: int = 32) -> float:
    """Relative error of some rows of the gradient against float64 NumPy."""
    z = np.asarray(arrays.unit[0], np.float64)
    m = shape.items
    chosen = np.sort(np.random.default_rng(0).choice(m, min(rows, m), replace=False))
    sums = np.empty(m)
    for begin in range(0, m, 512):
        block = np.exp((z[begin : begin + 512] @ z.T - 1) / TEMPERATURE)
        own = np.arange(len(block))
        block[own, begin + own] = 0
        sums[begin : begin + 512] = block.sum(axis=1)
    similarity = z[chosen] @ z.T
    other = np.arange(m)[None, :] != chosen[:, None]
    terms = np.exp((similarity - 1) / TEMPERATURE) / (m * TEMPERATURE)
    weights = terms * (1 / sums[chosen][:, None] + 1 / sums[None, :])
    if shape.align:
        target = _target_rows(np.asarray(arrays.target, np.float64), m, chosen)
        weights += 4 * WEIGHT * np.where(similarity >= THRESHOLD, similarity - target, 0)
    exact = np.where(other, weights, 0) @ z
    off = gradient[chosen] - exact
    off, exact = (
        part - (part * z[chosen]).sum(axis=1, keepdims=True) * z[chosen] for part in (off, exact)
    )
    return float(np.linalg.norm(off) / np.linalg.norm(exact))


def _target_rows(tiles: np.ndarray, items: int, chosen: np.ndarray) -> np.ndarray:
    """Rows of the dense matrix, [rows, m], from its packed tiles."""
    cut = grid(items)
    found = np.zeros((len(chosen), cut.groups * cut.side))
    for tile, (i, j) in zip(tiles, cut.places, strict=True):
        for upper, lower, part in ((i, j, tile), (j, i, tile.T)):
            here = chosen // cut.side == upper
            found[here, lower * cut.side : (lower + 1) * cut.side] = part[chosen[here] % cut.side]
    return found[:, :items]


def _measure(on_gpu: bool, *, toy: bool) -> Rates:
    """The device's rates: of large products by operands, of exp, of passing over an array."""
    size = 256 if toy else 8192 if on_gpu else 2048
    full = roofline.measure_peaks(size=size, precision="highest")
    fast = roofline.measure_peaks(size=size, precision="default") if on_gpu else full
    # One device runs the pass; what the others could do is none of its bound.
    count = len(jax.local_devices())
    exponentials = _gpu_exponentials() if on_gpu else full.exponentials / count
    return Rates(
        {"float32": full.flops / count} | ({"tf32": fast.flops / count} if on_gpu else {}),
        exponentials,
        roofline.measure_stream(1 << (20 if toy else 30 if on_gpu else 27)) / count,
    )


def _gpu_exponentials() -> float:
    """Exponentials a second of one GPU. A chain that XLA fuses into one kernel: with a loop over
    kernels, as for a CPU's cache, memory would be what is measured."""
    links, values = 64, 1 << 24

    def chain(x: Any) -> Any:
        total = jnp.zeros_like(x)
        for link in range(links):
            total += jnp.exp(x - 0.01 * link)
        return total

    return links * values / _best(jax.jit(chain), jnp.linspace(0, 1, values))


def _best(function: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main(KernelOptions, run, __doc__ or "")
