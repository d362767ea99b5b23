"""n-bit row-wise quantization of an upload."""

from __future__ import annotations

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
    and two float32 a row.

    Args:
      bits: b, from 1 to 16.

    Raises:
      InputError: bits out of range.
    """
    if not 1 <= bits <= MAX_BITS:
        raise InputError(f"bits={bits} must be from 1 to {MAX_BITS}")
    steps = 2**bits - 1

    def quantize(key: jax.Array, rows: jax.Array) -> jax.Array:
        low = jnp.min(rows, axis=-1, keepdims=True)
        high = jnp.max(rows, axis=-1, keepdims=True)
        span = high - low
        level = jnp.round((rows - low) * (steps / jnp.where(span > 0, span, 1)))
        return low + level * (span / steps)

    def wire(form: WireFormat) -> WireFormat:
        rows = form.values // form.shape[-1]
        scales = rows * _SCALES_A_ROW * 32
        return form._replace(value_bits=bits, overhead_bits=form.overhead_bits + scales)

    return on_rows(quantize, wire)
