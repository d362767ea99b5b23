"""Principal subspaces, their angles and first components, against LAPACK in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.relations import (
    complementarity,
    component_similarity,
    first_component,
    principal_basis,
)


def spread(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors whose variance along their axes differs, so that axes are well determined."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return ((rng.normal(size=(rows, dim)) * 2.0 ** -np.arange(dim)) @ axes + 3).astype(np.float32)


def bases(count: int, k: int = 4, dim: int = 8, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.linalg.qr(rng.normal(size=(count, dim, k)))[0]
    return np.swapaxes(found, 1, 2).astype(np.float32)


@pytest.mark.parametrize("components", [1, 3, 5])
def test_basis_is_that_of_the_covariance(components) -> None:
    rows = spread(30, 5)
    mask = np.arange(30) % 3 > 0
    found = np.asarray(principal_basis(rows, mask, components), np.float64)
    kept = rows[mask].astype(np.float64)
    right = np.linalg.svd(kept - kept.mean(axis=0))[2][:components]
    cosines = np.abs((found * right).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(found @ found.T, np.eye(components), atol=1e-5)


@pytest.mark.parametrize(("rows", "rank"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_directions_that_are_missing_are_zero(rows, rank) -> None:
    mask = np.arange(9) < rows
    found = np.asarray(principal_basis(spread(9, 5), mask, 4))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.arange(4) < rank, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_angles(k, block_bytes) -> None:
    shown = bases(7, k)
    shown[3] = shown[0][::-1]  # the same subspace
    present = np.arange(7) != 5
    shown[5] = np.nan
    found = np.asarray(complementarity(shown, present, block_bytes=block_bytes))
    for i in range(7):
        for j in range(7):
            if i == 5 or j == 5:
                assert found[i, j] == 0
                continue
            values = np.linalg.svd(shown[i].astype(float) @ shown[j].T.astype(float))[1]
            expected = np.cos(np.mean(np.arccos(np.clip(values, 0, 1))))
            assert found[i, j] == pytest.approx(expected, abs=3e-4)  # arccos near 1
    assert found[0, 3] == pytest.approx(1, abs=1e-5)


def test_a_subspace_has_many_bases_and_one_angle() -> None:
    shown, rng = bases(2), np.random.default_rng(3)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32) @ shown[1]
    found = complementarity(np.stack([shown[0], shown[1], turned]), np.ones(3, bool))
    assert float(found[0, 1]) == pytest.approx(float(found[0, 2]), abs=1e-5)
    assert float(found[1, 2]) == pytest.approx(1, abs=1e-5)


def test_orthogonal_subspaces_complement_nothing() -> None:
    shown = np.eye(8, dtype=np.float32).reshape(2, 4, 8)
    np.testing.assert_allclose(complementarity(shown, np.ones(2, bool)), np.eye(2), atol=1e-6)


@pytest.mark.parametrize("block_bytes", [4 * 5 * 6 * 4, 1 << 20])
def test_first_component(block_bytes) -> None:
    whole = np.stack([spread(21, 6, seed) for seed in range(5)])
    present = np.arange(5) != 2
    whole[2] = np.nan
    found = np.asarray(first_component(whole, present, block_bytes=block_bytes))
    for k in np.flatnonzero(present):
        table = whole[k].astype(np.float64) - whole[k].mean(axis=0, dtype=np.float64)
        expected = table @ np.linalg.svd(table)[2][0]
        sign = np.sign(expected @ found[k])
        np.testing.assert_allclose(sign * found[k], expected, rtol=1e-3, atol=1e-3)
    assert (found[2] == 0).all()


def test_similarity_takes_the_nearer_sign() -> None:
    along = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    along[1] = -along[0]
    present = np.array([True, True, True, False])
    found = np.asarray(component_similarity(along, present))
    for i in range(3):
        for j in range(3):
            a, b = along[i].astype(float), along[j].astype(float)
            distance = min(np.linalg.norm(a - b), np.linalg.norm(a + b))
            assert found[i, j] == pytest.approx(1 / (1 + distance), abs=2e-3)
    assert (found[3] == 0).all()
    assert (np.diagonal(found)[:3] == 1).all()


@pytest.mark.compiler
def test_batches_of_clients_find_what_each_finds_alone() -> None:
    rows = np.stack([spread(12, 6, seed) for seed in range(5)])
    mask = np.ones(12, bool)
    together = jax.jit(jax.vmap(lambda x: principal_basis(x, mask, 4)))(rows)
    for k in range(5):
        alone = principal_basis(jnp.asarray(rows[k]), mask, 4)
        np.testing.assert_allclose(np.abs(together[k]), np.abs(alone), atol=1e-4)


def test_no_routine_that_hangs_where_all_cpu_devices_call_it() -> None:
    """jaxlib's batched LAPACK waits on a thread of a pool for that pool: two devices, two cores."""
    whole, present = jnp.zeros((64, 9, 4)), jnp.ones(64, bool)

    def all_of_them(whole, present):
        found = jax.vmap(lambda rows: principal_basis(rows, jnp.ones(9, bool), 2))(whole)
        return complementarity(found, present), first_component(whole, present)

    lapack = 'custom_call_target="lapack'

    def text(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().as_text()

    if jax.default_backend() == "cpu":
        assert lapack in text(jnp.linalg.eigh, jnp.zeros((64, 4, 4)))
    assert lapack not in text(all_of_them, whole, present)
