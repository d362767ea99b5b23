"""Clients' states kept in fewer bits between rounds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.batches import ClientData
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.seeding import Purpose

__all__ = ["StateDtype", "decode", "encode", "stored_as"]

StateDtype = Literal["float32", "bfloat16", "int8"]
PyTree = Any

_INT8 = 127


class Rounded(NamedTuple):
    """A float32 array kept as bfloat16."""

    values: jax.Array


class Quantized(NamedTuple):
    """A float32 array kept as int8: ``values``·``scale``, one scale a row (the last axis)."""

    values: jax.Array
    scale: jax.Array


class Working(NamedTuple):
    """A client within a round: its state at full precision, and the key of its rounding."""

    state: PyTree
    key: jax.Array


def encode(key: jax.Array, state: PyTree, dtype: StateDtype) -> PyTree:
    """A state's float32 arrays in fewer bits; scalars and other types stay.

    Rounding is stochastic: up or down with the probabilities that make the mean exact. To the
    nearest, a step of training that is smaller than half of a unit would be lost in every round.

    Args:
      key: of the rounding.
      state: pytree of arrays.
      dtype: "bfloat16": 2 bytes a value, 3 significant digits. "int8": 1 byte a value and 4 a row;
        a value is off by less than the row's largest magnitude / 127.
    """
    leaves, structure = jax.tree.flatten(state)
    out: list[Any] = []
    for index, x in enumerate(leaves):
        if x.ndim == 0 or x.dtype != jnp.float32:
            out.append(x)
        elif dtype == "bfloat16":
            out.append(Rounded(_to_bfloat16(jax.random.fold_in(key, index), x)))
        else:
            out.append(_to_int8(jax.random.fold_in(key, index), x))
    return jax.tree.unflatten(structure, out)


def decode(stored: PyTree) -> PyTree:
    """The state at full precision."""

    def leaf(x: Any) -> Any:
        if isinstance(x, Rounded):
            return x.values.astype(jnp.float32)
        if isinstance(x, Quantized):
            return x.values.astype(jnp.float32) * x.scale
        return x

    return jax.tree.map(leaf, stored, is_leaf=lambda x: isinstance(x, Rounded | Quantized))


def stored_as(method: Method, dtype: StateDtype) -> Method:
    """The same method, whose clients' states are kept in ``dtype`` between rounds.

    Args:
      method: any.
      dtype: "float32" changes nothing.

    Raises:
      InputError: another dtype.
    """
    if dtype == "float32":
        return method
    if dtype not in ("bfloat16", "int8"):
        raise InputError(f"state_dtype={dtype!r}: use 'float32', 'bfloat16' or 'int8'")

    def init_client(key: jax.Array, server: PyTree, num_users: int) -> PyTree:
        state = method.init_client(key, server, num_users)
        return encode(jax.random.fold_in(key, int(Purpose.STORE)), state, dtype)

    def receive(key: jax.Array, client: PyTree, download: Broadcast, data: ClientData) -> Working:
        rounding = jax.random.fold_in(key, int(Purpose.STORE))
        return Working(method.receive(key, decode(client), download, data), rounding)

    def local_update(key: jax.Array, client: Working, download: Broadcast, data: ClientData):
        state, upload, info = method.local_update(key, client.state, download, data)
        return Working(state, client.key), upload, info

    def retain(client: Working) -> PyTree:
        return encode(client.key, method.retain(client.state), dtype)

    def scores(client: Working, shared: PyTree, user: jax.Array) -> jax.Array:
        return method.scores(client.state, shared, user)

    return method._replace(
        init_client=init_client,
        receive=receive,
        local_update=local_update,
        retain=retain,
        scores=scores,
    )


def _to_bfloat16(key, x):
    """Adds random bits below bfloat16's last, then cuts them off."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    # Infinities, NaN and what would become one of them stay what they are.
    return jnp.where(jnp.isfinite(rounded), rounded, x).astype(jnp.bfloat16)


def _to_int8(key, x):
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scale = jnp.where(largest == 0, 1, largest) / _INT8  # NaN stays: it tells of itself
    values = jnp.floor(x / scale + jax.random.uniform(key, x.shape))
    return Quantized(jnp.clip(values, -_INT8, _INT8).astype(jnp.int8), scale)
