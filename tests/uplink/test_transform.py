"""Composition, and what every transform promises: integers untouched, vmap == loop, jit-safe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.uplink import (
    Transform,
    chain,
    clip_rows,
    dense,
    identity,
    laplace,
    quantize_rows,
)
from tests.uplink.trees import Upload, upload

TRANSFORMS = {
    "identity": identity(),
    "clip": clip_rows(0.5),
    "laplace": laplace(0.1),
    "quantize": quantize_rows(4),
    "all": chain(clip_rows(0.5), laplace(0.1), quantize_rows(4)),
}
each_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())


def assert_trees_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@each_transform
def test_vmapped_and_jitted_as_in_a_loop(transform: Transform) -> None:
    clients = [upload(seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(9), 3)
    batched = jax.jit(jax.vmap(transform.apply))(
        keys, jax.tree.map(lambda *x: jnp.stack(x), *clients)
    )
    for index, client in enumerate(clients):
        alone = transform.apply(keys[index], client)
        jax.tree.map(
            lambda a, b, index=index: np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-6),
            batched,
            alone,
        )


@each_transform
def test_only_floating_rows_change(transform: Transform) -> None:
    before = upload()
    after = transform.apply(jax.random.key(0), before)
    assert_trees_equal((after.codes, after.bias), (before.codes, before.bias))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), before
    )


@pytest.mark.parametrize("name", ["clip", "laplace", "quantize", "all"])
def test_every_array_of_rows_changes(name: str) -> None:
    before = upload()
    after = TRANSFORMS[name].apply(jax.random.key(0), before)
    assert (after.items != before.items).any()
    assert (after.codebooks != before.codebooks).any()


def test_identity_and_the_empty_chain_leave_all_as_it_is() -> None:
    for transform in (identity(), chain()):
        assert_trees_equal(transform.apply(jax.random.key(0), upload()), upload())
        assert transform.wire(dense(upload())) == dense(upload())


def test_a_chain_applies_from_left_to_right() -> None:
    rows = jnp.array([[3.0, 4.0]])

    def double() -> Transform:
        return Transform(apply=lambda key, x: 2 * x, wire=lambda formats: formats)

    key = jax.random.key(0)
    np.testing.assert_allclose(chain(double(), clip_rows(5)).apply(key, rows), [[3, 4]], rtol=1e-6)
    np.testing.assert_allclose(chain(clip_rows(5), double()).apply(key, rows), [[6, 8]], rtol=1e-6)


def test_two_noises_in_a_chain_and_two_arrays_in_a_tree_are_independent() -> None:
    zeros = {"a": jnp.zeros((50, 8)), "b": jnp.zeros((50, 8))}
    key = jax.random.key(0)
    noise = laplace(1.0).apply(key, zeros)
    assert abs(np.corrcoef(noise["a"].ravel(), noise["b"].ravel())[0, 1]) < 0.2
    # One key for both would double every value.
    twice = chain(laplace(1.0), laplace(1.0)).apply(key, zeros)["a"]
    assert np.std(twice) == pytest.approx(np.sqrt(2) * np.sqrt(2), rel=0.2)


def test_the_wire_of_a_chain_is_that_of_its_parts() -> None:
    formats = dense(upload())
    assert TRANSFORMS["all"].wire(formats) == quantize_rows(4).wire(formats)


@each_transform
def test_wire_keeps_the_tree_and_what_is_not_rows(transform: Transform) -> None:
    before = dense(upload())
    after = transform.wire(before)
    assert isinstance(after, Upload)
    assert (after.codes, after.bias) == (before.codes, before.bias)
