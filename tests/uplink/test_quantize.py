"""Quantization against float64 NumPy, its error bound, its bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_rec.errors import InputError
from fedjax_rec.uplink import dense, labels, quantize_rows

KEY = jax.random.key(0)
tables = arrays(
    np.float32,
    st.sampled_from([(1, 1), (3, 4), (2, 3, 5)]),  # few shapes: each compiles once
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


@given(tables, st.integers(1, 16))
@settings(max_examples=80, deadline=None)
def test_error_is_at_most_half_a_step(rows: np.ndarray, bits: int) -> None:
    got = np.asarray(quantize_rows(bits).apply(KEY, jnp.asarray(rows)), np.float64)
    exact = rows.astype(np.float64)
    low = exact.min(axis=-1, keepdims=True)
    high = exact.max(axis=-1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    # Beyond the bound: float32 rounding of the arithmetic itself.
    slack = 4 * np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high)) + 1e-37
    assert (np.abs(got - exact) <= step / 2 + slack).all()
    levels = np.divide(got - low, step, where=step > 0, out=np.zeros_like(got))
    assert (np.abs(levels - np.round(levels)) * step <= slack).all()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_against_float64(bits: int) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    exact = rows.astype(np.float64)
    low, high = exact.min(axis=1, keepdims=True), exact.max(axis=1, keepdims=True)
    steps = 2**bits - 1
    expected = low + np.round((exact - low) / (high - low) * steps) * (high - low) / steps
    got = quantize_rows(bits).apply(KEY, jnp.asarray(rows))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 17))
def test_a_row_has_at_most_2_to_the_bits_values_and_keeps_its_ends(bits: int) -> None:
    row = jnp.linspace(-1.0, 2.0, 3001)[None]
    got = np.asarray(quantize_rows(bits).apply(KEY, row))
    assert len(np.unique(got)) == min(2**bits, 3001)
    assert got.min() == -1.0
    assert got.max() == pytest.approx(2.0, rel=1e-6)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
@settings(max_examples=40, deadline=None)
def test_constant_rows_are_exact(value: float) -> None:
    rows = jnp.full((2, 5), value, jnp.float32)
    np.testing.assert_array_equal(quantize_rows(3).apply(KEY, rows), rows)


@pytest.mark.parametrize("span", [5e-36, 2e-38, 1e-40, 1e-45])
def test_tiny_spans_stay_finite(span: float) -> None:
    got = np.asarray(quantize_rows(16).apply(KEY, jnp.array([[0.0, span]])))
    assert np.isfinite(got).all()
    assert (np.abs(got - [[0, span]]) <= 1.2e-38 + 1e-5 * span).all()  # subnormals flush to 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_row_shows_and_stays_alone(bad: float) -> None:
    got = np.asarray(quantize_rows(8).apply(KEY, jnp.array([[bad, 1.0, 0.0], [0.0, 1.0, 1.0]])))
    assert not np.isfinite(got[0]).any()
    np.testing.assert_array_equal(got[1], [0, 1, 1])


@pytest.mark.parametrize("bits", [0, 17, -1, 2.5])
def test_bad_bits(bits: int) -> None:
    with pytest.raises(InputError, match="bits="):
        quantize_rows(bits)


def test_bytes_of_a_quantized_table() -> None:
    # 1682 · 32 values of 8 bits, and two float32 for each of 1682 rows.
    assert quantize_rows(8).wire(dense(jnp.zeros((1682, 32)))).bytes == 1682 * (32 + 8)
    # 3 bits: 5 · 3 · 3 = 45 bits of values, 5 · 64 of scales: 365 bits are 46 bytes.
    assert quantize_rows(3).wire(dense(jnp.zeros((5, 3)))).bytes == 46
    # Rows of a stack of codebooks: 3 · 256 of them.
    assert quantize_rows(4).wire(dense(jnp.zeros((3, 256, 10)))).bits == 768 * (40 + 64)


def test_what_is_not_quantized_costs_what_it_did() -> None:
    tree = {"codes": jnp.zeros((7, 3), jnp.int32), "bias": jnp.zeros(7), "labels": labels(7, 4)}
    formats = {**dense({"codes": tree["codes"], "bias": tree["bias"]}), "labels": tree["labels"]}
    assert quantize_rows(2).wire(formats) == formats
