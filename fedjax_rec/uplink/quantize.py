"""n-bit row-wise quantization of an upload."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.uplink.transform import Transform, on_rows
from fedjax_rec.uplink.wire import WireFormat

__all__ = ["MAX_BITS", "quantize_rows"]

MAX_BITS = 16
_SCALES_A_ROW = 2  # minimum and maximum, float32


def quantize_rows(bits: int) -> Transform:
    """Rounds each value to one of 2ᵇ levels, evenly spaced from its row's minimum to maximum.

    The server decodes x̂ = min + round((x − min)/(max − min)·(2ᵇ − 1))·(max − min)/(2ᵇ − 1), so
    |x̂ − x| ≤ (max − min)/(2ᵇ − 1)/2, and a constant row is exact. On the wire: b bits a value
    and two float32 a row. A row that holds a NaN or an infinity comes out as NaN, and no other row
    with it: training stops on it instead of going on with made-up numbers. (So does a row whose
    max − min is beyond float32.)

    Args:
      bits: b, a whole number from 1 to 16.

    Raises:
      InputError: bits out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> quantize_rows(1).apply(jax.random.key(0), jnp.array([[0.0, 0.2, 0.9, 1.0]]))
      Array([[0., 0., 1., 1.]], dtype=float32)
    """
    if bits not in range(1, MAX_BITS + 1):
        raise InputError(f"bits={bits} must be a whole number from 1 to {MAX_BITS}")
    steps = 2**bits - 1

    def quantize(key: jax.Array, rows: jax.Array) -> jax.Array:
        low = jnp.min(rows, axis=-1, keepdims=True)
        high = jnp.max(rows, axis=-1, keepdims=True)
        span = high - low
        # Fractions of the span, not steps of size span / steps: where the span is tiny but not 0,
        # that size vanishes in float32, and its inverse overflows.
        level = jnp.round((rows - low) / jnp.where(span > 0, span, 1) * steps)
        return low + (level / steps) * span

    def wire(form: WireFormat) -> WireFormat:
        scales = math.prod(form.shape[:-1]) * _SCALES_A_ROW * 32
        return form._replace(value_bits=bits, overhead_bits=form.overhead_bits + scales)

    return on_rows(quantize, wire)
