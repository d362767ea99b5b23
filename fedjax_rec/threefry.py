"""JAX's own random bits, without its loop: the same numbers, many times sooner for a few of them.

On a CPU, JAX computes Threefry by a loop over five groups of rounds, which compiles sooner. Small
clients draw so few numbers that going round the loop takes longer than the draws, and half of a
client's time goes there. Here the rounds are written out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["fold_in", "random_blocks"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def random_blocks(key: jax.Array, first: Any, second: Any) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds: two random words for every pair of counters.

    Args:
      key: a Threefry key (``jax.random.key``).
      first: uint32 of any shape.
      second: uint32, broadcast against ``first``.

    Returns:
      Two uint32 arrays of the counters' shape: what ``jax.extend.random.threefry_2x32`` makes of
      them.

    Reference:
      Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    zero, one = jax.random.key_data(key)
    return _rounds(zero, one, jnp.asarray(first, jnp.uint32), jnp.asarray(second, jnp.uint32))


@jax.jit  # so that JAX traces and lowers these rounds once a shape, not at every call of a program
def _rounds(zero, one, first, second):
    schedule = (zero, one, zero ^ one ^ jnp.uint32(_PARITY))
    x, y = first + zero, second + one
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def fold_in(key: jax.Array, number: Any) -> jax.Array:
    """``jax.random.fold_in`` of a Threefry key.

    Args:
      key: [] the key.
      number: [] integer, 0 … 2³² − 1.
    """
    words = random_blocks(key, jnp.uint32(0), jnp.asarray(number, jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl="threefry2x32")
