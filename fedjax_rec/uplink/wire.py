"""How many bits an array takes on the wire."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError

__all__ = ["WireFormat", "dense", "labels"]


class WireFormat(NamedTuple):
    """One array as it travels.

    Attributes:
      shape: the array's shape; a transform may need its rows.
      value_bits: bits of one value.
      overhead_bits: bits of the whole array beside its values (scales, headers).
      floating: whether the values are floating-point numbers; transforms leave others alone.
    """

    shape: tuple[int, ...]
    value_bits: int
    overhead_bits: int = 0
    floating: bool = False

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """All bits of the array."""
        return self.values * self.value_bits + self.overhead_bits

    @property
    def bytes(self) -> int:
        """Whole bytes: the last one may be padded."""
        return -(-self.bits // 8)


def dense(tree: Any) -> Any:
    """Formats of arrays that travel as they are: every value at its dtype's width.

    Args:
      tree: pytree of arrays or shape structs.

    Returns:
      The same tree of WireFormat.

    Example:
      >>> import jax.numpy as jnp
      >>> dense(jnp.zeros((1682, 32))).bytes
      215296
    """

    def form(x: Any) -> WireFormat:
        floating = bool(jnp.issubdtype(x.dtype, jnp.floating))
        return WireFormat(tuple(x.shape), 8 * x.dtype.itemsize, floating=floating)

    return jax.tree.map(form, tree)


def labels(count: int, classes: int) -> WireFormat:
    """Format of ``count`` labels out of ``classes``: ceil(log2 classes) bits each.

    Raises:
      InputError: fewer than one class.

    Example:
      >>> labels(1682, 60).bytes  # 6 bits each
      1262
    """
    if classes < 1:
        raise InputError(f"labels need at least one class, not {classes}")
    return WireFormat((count,), (classes - 1).bit_length())
