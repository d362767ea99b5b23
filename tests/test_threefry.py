"""Threefry written out: word for word what JAX's own draws, and so keys and runs of before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32

from fedjax_rec.threefry import fold_in, random_blocks

words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])
blocks = jax.jit(random_blocks)


def _key(first: int, second: int) -> jax.Array:
    return jax.random.wrap_key_data(np.array([first, second], np.uint32), impl="threefry2x32")


def test_the_published_vector() -> None:
    """Of Random123's known answers, the one whose key and counters are digits of π."""
    out = blocks(_key(0x13198A2E, 0x03707344), np.uint32(0x243F6A88), np.uint32(0x85A308D3))
    assert [int(x) for x in out] == [0xC4923A9C, 0x483DF7A0]


@given(words, words, words, words)
@settings(max_examples=60, deadline=None)
def test_one_block_as_jax_draws_it(a, b, first, second) -> None:
    mine = blocks(_key(a, b), np.uint32(first), np.uint32(second))
    theirs = threefry_2x32(np.array([a, b], np.uint32), np.array([first, second], np.uint32))
    assert [int(x) for x in mine] == np.asarray(theirs).tolist()


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3)])
def test_many_blocks_as_jax_draws_them(shape) -> None:
    key = jax.random.key(5)
    first = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    mine = blocks(key, first, np.uint32(0))
    both = np.concatenate([first.reshape(-1), np.zeros(first.size, np.uint32)])
    theirs = np.asarray(threefry_2x32(jax.random.key_data(key), both))
    assert mine[0].shape == mine[1].shape == shape
    np.testing.assert_array_equal(np.concatenate([x.reshape(-1) for x in mine]), theirs)


@given(words, words)
@settings(max_examples=60, deadline=None)
def test_keys_fold_as_jax_folds_them(seed, number) -> None:
    key = jax.random.key(seed % 2**31)
    mine, theirs = fold_in(key, np.uint32(number)), jax.random.fold_in(key, np.uint32(number))
    assert mine.dtype == theirs.dtype
    assert jax.random.key_data(mine).tolist() == jax.random.key_data(theirs).tolist()


def test_a_client_of_a_group_has_the_key_that_it_has_alone() -> None:
    key = jax.random.key(2)
    ids = jnp.arange(9, dtype=jnp.int32)
    together = jax.random.key_data(jax.vmap(fold_in, (None, 0))(key, ids))
    alone = [jax.random.key_data(fold_in(key, id_)) for id_ in ids]
    np.testing.assert_array_equal(together, np.stack(alone))
