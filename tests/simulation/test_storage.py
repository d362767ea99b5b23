"""States in fewer bits: how far off they are, that they are right on average, that runs work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.simulation.storage import decode, encode, stored_as
from tests.problems import small

KEY = jax.random.key(0)
# Zero, or large enough for a row's scale to be a normal number.
FLOATS = st.floats(-1e6, 1e6, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)
there_and_back = {
    dtype: jax.jit(lambda key, x, dtype=dtype: decode(encode(key, x, dtype)))
    for dtype in ("bfloat16", "int8")
}


@given(arrays(np.float32, (5, 7), elements=FLOATS), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_value_is_off_by_less_than_a_unit(x, seed) -> None:
    key = jax.random.key(seed)
    near = np.asarray(there_and_back["bfloat16"](key, x))
    assert (np.abs(near - x) <= np.abs(x) * 2.0**-7).all()
    near = np.asarray(there_and_back["int8"](key, x))
    unit = np.abs(x).max(axis=1, keepdims=True) / 127
    assert (np.abs(near - x) <= unit * (1 + 1e-4)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounding_is_right_on_average(dtype) -> None:
    x = jnp.array([[1.001, -0.3337, 1e-3, 0.0]])
    draws = jax.vmap(lambda key: there_and_back[dtype](key, x))(jax.random.split(KEY, 20_000))
    unit = {"bfloat16": 2.0**-7, "int8": 1.001 / 127}[dtype]
    off = np.abs(np.asarray(draws, np.float64).mean(axis=0) - np.asarray(x))
    assert (off < 5 * unit / np.sqrt(12 * 20_000) * 1.8).all()
    assert (draws[..., 3] == 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_leaves_stay_and_what_is_not_finite_stays_so(dtype) -> None:
    state = {
        "bias": jnp.float32(0.1),
        "codes": jnp.arange(3),
        "rows": jnp.array([[jnp.nan, 1.0], [jnp.inf, 1.0], [0.0, 0.0]]),
    }
    kept = decode(encode(KEY, state, dtype))
    assert kept["bias"] == state["bias"]
    np.testing.assert_array_equal(kept["codes"], state["codes"])
    assert kept["codes"].dtype == state["codes"].dtype
    finite = np.isfinite(np.asarray(kept["rows"])).all(axis=1)
    np.testing.assert_array_equal(finite, [False, False, True])


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 1.9), ("int8", 3.0)])
def test_a_run_takes_less_memory_and_stays_close(dtype, least, tmp_path) -> None:
    problem = small()
    method = methods.cgfedrec(dim=16, clusters=5)
    options = {"rounds": 4, "progress": False, "report": False}
    whole = fedjax_rec.simulate(method, problem, **options)
    out = tmp_path / "run"
    first = {**options, "rounds": 2}
    fedjax_rec.simulate(method, problem, state_dtype=dtype, out=out, **first)
    small_run = fedjax_rec.simulate(
        method, problem, state_dtype=dtype, out=out, resume=True, **options
    )
    straight = fedjax_rec.simulate(method, problem, state_dtype=dtype, **options)
    jax.tree.map(np.testing.assert_array_equal, small_run.client_states, straight.client_states)
    assert small_run.history["train_loss"].iloc[-1] == pytest.approx(
        whole.history["train_loss"].iloc[-1], rel=0.02
    )
    items = np.asarray(whole.client_states.items)
    kept = np.asarray(small_run.client_states.items)
    assert kept.dtype == np.float32
    assert np.linalg.norm(kept - items) < 0.03 * np.linalg.norm(items)
    with pytest.raises(InputError, match="state_dtype"):
        fedjax_rec.simulate(method, problem, out=out, resume=True, **options)

    def size(tree):
        return sum(x.nbytes for x in jax.tree.leaves(tree))

    client = method.init_client(KEY, method.init(KEY, problem), 1)
    stored = stored_as(method, dtype).init_client(KEY, method.init(KEY, problem), 1)
    assert size(client) > least * size(stored)


def test_float32_is_the_method_itself_and_others_are_refused() -> None:
    method = methods.pfedrec()
    assert stored_as(method, "float32") is method
    with pytest.raises(InputError, match="float16"):
        stored_as(method, "float16")
