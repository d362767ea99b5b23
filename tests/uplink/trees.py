"""An upload of every kind of array that methods send."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Upload(NamedTuple):
    items: jax.Array  # [m, d] float32: rows
    codebooks: jax.Array  # [L, M, d] float32: rows
    codes: jax.Array  # [m, L] int32: not rows
    bias: jax.Array  # [m] float32: not rows


def upload(seed: int = 0, scale: float = 1.0) -> Upload:
    keys = jax.random.split(jax.random.key(seed), 3)
    return Upload(
        items=scale * jax.random.normal(keys[0], (5, 4)),
        codebooks=scale * jax.random.normal(keys[1], (2, 3, 4)),
        codes=jnp.arange(10, dtype=jnp.int32).reshape(5, 2),
        bias=scale * jax.random.normal(keys[2], (5,)),
    )
