"""Comparing and mixing all clients' tables, block by block, against NumPy on whole tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_rec.relations import add_blocks, cosine_similarities, mix_tables
from fedjax_rec.simulation import clients
from fedjax_rec.simulation.devices import client_mesh

pytestmark = pytest.mark.compiler

ROWS, ITEMS, DIM = 6, 11, 3
PRESENT = np.array([True, True, False, True, True, False])
BLOCKS = [4 * ROWS * DIM, 4 * ROWS * DIM * 4, 1 << 20]  # 11 blocks, 3 of which the last short, 1


def tables(seed: int = 0) -> np.ndarray:
    """Tables of whom nobody's are not numbers."""
    found = np.random.default_rng(seed).normal(size=(ROWS, ITEMS, DIM)).astype(np.float32)
    found[~PRESENT] = np.nan
    return found


@pytest.mark.parametrize("block_bytes", BLOCKS)
def test_cosines(block_bytes) -> None:
    whole = tables()
    found = cosine_similarities(whole, PRESENT, block_bytes=block_bytes)
    flat = whole[PRESENT].reshape(PRESENT.sum(), -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    expected = np.zeros((ROWS, ROWS))
    expected[np.ix_(PRESENT, PRESENT)] = flat @ flat.T
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_both_halves_of_the_cosines_are_the_same(rows) -> None:
    whole = np.random.default_rng(rows).normal(size=(rows, ITEMS, DIM)).astype(np.float32)
    found = np.asarray(cosine_similarities(whole, np.ones(rows, bool)))
    flat = whole.reshape(rows, -1) / np.linalg.norm(whole.reshape(rows, -1), axis=1)[:, None]
    np.testing.assert_allclose(found, flat @ flat.T, atol=1e-6)
    np.testing.assert_array_equal(found, found.T)


def test_a_table_of_zeros_is_like_none() -> None:
    whole = np.nan_to_num(tables())
    whole[1] = 0
    found = np.asarray(cosine_similarities(whole, np.ones(ROWS, bool)))
    assert (found[1] == 0).all()
    assert (found[:, 1] == 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("block_bytes", BLOCKS)
@pytest.mark.parametrize("times", [1, 3])
def test_mixes(block_bytes, times) -> None:
    whole, old = tables(), np.random.default_rng(1).normal(size=(ROWS, ITEMS, DIM))
    weights = np.random.default_rng(2).uniform(size=(ROWS, ROWS)) * PRESENT
    weights /= weights.sum(axis=1, keepdims=True)
    found = mix_tables(
        weights.astype(np.float32),
        whole,
        PRESENT,
        old.astype(np.float32),
        times=times,
        block_bytes=block_bytes,
    )
    among = np.linalg.matrix_power(weights[np.ix_(PRESENT, PRESENT)], times)
    new = np.einsum("kj,jmd->kmd", among, whole[PRESENT])
    expected = old.copy()
    expected[PRESENT] = new
    np.testing.assert_allclose(found.tables, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean, new.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_nobody_changes_nothing() -> None:
    old = jnp.ones((ROWS, ITEMS, DIM))
    found = mix_tables(jnp.ones((ROWS, ROWS)), tables(), np.zeros(ROWS, bool), old)
    np.testing.assert_array_equal(found.tables, old)
    assert (np.asarray(found.mean) == 0).all()


@pytest.mark.parametrize("block_bytes", BLOCKS)
def test_every_item_passes_once(block_bytes) -> None:
    whole = tables()

    def add(total, block, items):
        return total.at[items].add(jnp.sum(block, axis=(0, 2)))

    found = add_blocks(add, jnp.zeros(ITEMS), whole, PRESENT, block_bytes=block_bytes)
    np.testing.assert_allclose(found, whole[PRESENT].sum(axis=(0, 2)), rtol=1e-5, atol=1e-5)


def test_memory_is_that_of_a_block_and_devices_agree(two_devices) -> None:
    """Ten times the items take not a byte more, on one device or two."""
    block = 64 << 10
    rows = 20
    weights = np.full((rows, rows), 1 / rows, np.float32)

    def both(weights, whole, present):
        mixed = mix_tables(weights, whole, present, whole, block_bytes=block)
        return cosine_similarities(whole, present, block_bytes=block), mixed

    results = {}
    for devices in (1, two_devices):
        sharding = NamedSharding(client_mesh(devices), PartitionSpec(clients.AXIS))
        taken = []
        for items in (1_000, 10_000):
            rng = np.random.default_rng(0)
            whole = rng.normal(size=(rows, items, 4)).astype(np.float32)
            arguments = jax.device_put((weights, whole, np.ones(rows, bool)), sharding)
            program = jax.jit(both).lower(*arguments).compile()
            taken.append(program.memory_analysis().temp_size_in_bytes)
            results[devices, items] = program(*arguments)
        # The mean of all tables, [m, d], is a part of the loop's state, and counted.
        assert taken[1] - taken[0] <= 2 * 4 * 9_000 * 4
        assert taken[0] < 8 * block
    for items in (1_000, 10_000):
        one, two = (jax.tree.leaves(results[d, items]) for d in (1, two_devices))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
