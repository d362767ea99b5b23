"""How long a round must take on this machine at the very least.

CGFedRec is bound by arithmetic, nearly all of it the contrastive gradient, once a local step. By
symmetry (design page §4) it needs one half of zzᵀ, as many exponentials, and one m × m × d product.
Each at the rate that XLA itself reaches here on large, friendly input gives a bound from below.
RQFedRec is bound by memory: ``measure_stream`` says how fast XLA passes over arrays of a size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.data.problem import Problem

__all__ = ["Cost", "Peaks", "contrastive_cost", "local_steps", "measure_peaks", "measure_stream"]


@dataclass(frozen=True)
class Cost:
    """Arithmetic work: floating-point operations and exponentials."""

    flops: float
    exponentials: float

    def times(self, steps: int) -> Cost:
        return Cost(self.flops * steps, self.exponentials * steps)


@dataclass(frozen=True)
class Peaks:
    """What all devices together do a second, float32: operations of a product; exponentials."""

    flops: float
    exponentials: float

    def seconds(self, cost: Cost) -> float:
        """The least time for the work. A core does one kind or the other, so the times add."""
        return cost.flops / self.flops + cost.exponentials / self.exponentials


def contrastive_cost(num_items: int, dim: int) -> Cost:
    """The least work of one contrastive gradient: pairs i < k once, and the product over all.

    Example:
      >>> round(contrastive_cost(1682, 32).flops / 1e6)
      272
    """
    pairs = num_items * (num_items - 1) / 2
    product = 2 * float(num_items) ** 2 * dim
    return Cost(flops=2 * pairs * dim + product, exponentials=pairs)


def local_steps(
    problem: Problem, *, negatives: int, batch_size: int, local_epochs: int
) -> np.ndarray:
    """Local steps of each client in one round, [num_clients] int64; padding is not work."""
    positives = np.add.reduceat(problem.train.lengths, problem.client_starts[:-1])
    return local_epochs * -(-positives * (1 + negatives) // batch_size)


def measure_peaks(*, size: int = 2048, repeats: int = 7, precision: str | None = None) -> Peaks:
    """Measures the product and exp of XLA on every device at once; the best of the repeats.

    Args:
      size: side of the square matrices of the product.
      repeats: attempts; the best one counts, since a peak is what the machine can do.
      precision: of the product's operands, as JAX names it; None: JAX's default.
    """
    # 1 MiB: large enough for XLA to use every core, small enough to stay in the cache.
    passes, values = 64, 1 << 18

    def exponentials(x: jax.Array) -> jax.Array:
        # The pass enters the argument, or the compiler would hoist exp out of the loop.
        return jax.lax.fori_loop(
            0, passes, lambda i, total: total + jnp.exp(x - 0.01 * i), jnp.zeros_like(x)
        )

    devices = jax.local_devices()
    square = jnp.ones((size, size), jnp.float32)
    product = _best_seconds(lambda x: jnp.matmul(x, x, precision=precision), square, repeats)
    exp = _best_seconds(exponentials, jnp.linspace(0, 1, values, dtype=jnp.float32), repeats)
    return Peaks(
        flops=len(devices) * 2 * size**3 / product,
        exponentials=len(devices) * passes * values / exp,
    )


def measure_stream(size: int, *, repeats: int = 7) -> float:
    """Bytes that all devices together read and write a second, each in an array of its own.

    Args:
      size: bytes of a device's array: one that fits a cache is passed over at the cache's speed.
      repeats: attempts; the best one counts.
    """
    passes = 8

    def scaled(x: jax.Array) -> jax.Array:
        # The pass enters the factor, or the compiler could join passes.
        return jax.lax.fori_loop(0, passes, lambda i, x: x * (1 + 1e-3 * i), x)

    seconds = _best_seconds(scaled, jnp.ones(max(size // 4, 1), jnp.float32), repeats)
    return len(jax.local_devices()) * passes * 2 * size / seconds


def _best_seconds(
    function: Callable[[jax.Array], jax.Array], argument: jax.Array, repeats: int
) -> float:
    """Wall seconds of the function on every device at the same time."""
    compiled = jax.jit(function)
    copies = [jax.device_put(argument, device) for device in jax.local_devices()]
    jax.block_until_ready([compiled(copy) for copy in copies])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready([compiled(copy) for copy in copies])
        seconds.append(time.perf_counter() - start)
    return min(seconds)
