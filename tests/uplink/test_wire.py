"""Bits on the wire against hand-computed cases."""

import doctest
import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import WireFormat, dense, labels, privacy, quantize, wire


def test_dense_arrays_by_dtype() -> None:
    assert dense(jnp.zeros((1682, 32))).bytes == 1682 * 32 * 4
    assert dense(jnp.zeros((3, 5), jnp.bfloat16)).bytes == 30
    assert dense(jnp.zeros(6, jnp.int32)).bytes == 24
    assert dense(jnp.float32(0)).bytes == 4
    assert dense(jnp.zeros((0, 8))).bytes == 0


def test_dense_takes_trees_of_shapes() -> None:
    shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": jnp.zeros(2, jnp.int16)}
    formats = dense(shapes)
    assert formats["a"] == WireFormat((2, 3), 32, floating=True)
    assert formats["b"] == WireFormat((2,), 16)
    assert dense(()) == ()


@pytest.mark.parametrize(
    ("classes", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (60, 6), (64, 6), (65, 7)]
)
def test_labels_take_ceil_log2_bits(classes: int, bits: int) -> None:
    assert labels(100, classes).bits == 100 * bits


@given(st.integers(1, 10**6), st.integers(1, 2**20))
def test_labels_can_tell_all_classes_apart_with_no_bit_too_many(count: int, classes: int) -> None:
    width = labels(count, classes).value_bits
    assert 2**width >= classes
    assert width == 0 or 2 ** (width - 1) < classes


@given(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 64), st.integers(0, 99))
def test_bytes_round_up(shape: list[int], value_bits: int, overhead: int) -> None:
    form = WireFormat(tuple(shape), value_bits, overhead)
    assert form.values == math.prod(shape)
    assert form.bits == form.values * value_bits + overhead
    assert 0 <= 8 * form.bytes - form.bits < 8


@pytest.mark.parametrize("classes", [0, -3])
def test_no_classes(classes: int) -> None:
    with pytest.raises(InputError, match="class"):
        labels(10, classes)


@pytest.mark.parametrize("module", [privacy, quantize, wire])
def test_examples(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
