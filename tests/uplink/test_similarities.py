"""The uplink of similarity matrices: what is summed and counted, against dense matrices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import tiles, uplink
from fedjax_rec.errors import InputError
from fedjax_rec.losses import cosine_similarity
from fedjax_rec.server import similarity_graph
from fedjax_rec.uplink import SimilarityUplink

M, D, CLIENTS = 11, 4, 5


@pytest.fixture(params=[4, 640], ids=["tiles of 4", "one tile"], autouse=True)
def tile_rows(request, monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_ROWS", request.param)


def tables(seed=0):
    return jax.random.normal(jax.random.key(seed), (CLIENTS, M, D)) + 0.5


def added(form: SimilarityUplink, items, weights=None, groups=1):
    """What the server has after all clients, taken in some groups; and the counts."""
    keys = jax.random.split(jax.random.key(9, impl="threefry2x32"), len(items))
    weights = jnp.ones(len(items)) if weights is None else weights
    acc, counts = None, []
    for part in np.array_split(np.arange(len(items)), groups):
        uploads = jax.vmap(form.transform().apply)(keys[part], items[part])
        acc, sent = jax.jit(form.add)(acc, uploads, weights[part])
        counts.append(sent)
    assert acc is not None
    return tiles.unpack(acc.total, M), float(acc.weight), np.concatenate(counts)


@pytest.mark.parametrize("center", [False, True])
def test_sum_and_counts_against_dense_matrices(center) -> None:
    items = tables()
    weights = jnp.array([1.0, 0.0, 2.0, 1.0, 0.5])
    dense = jnp.stack([cosine_similarity(e, threshold=0.5, center=center) for e in items])
    total, weight, counts = added(SimilarityUplink(0.5, center=center), items, weights)
    np.testing.assert_allclose(total, jnp.einsum("k,kij->ij", weights, dense), atol=1e-5)
    assert weight == 4.5
    np.testing.assert_array_equal(counts, np.count_nonzero(dense, axis=(1, 2)) // 2)
    assert counts.min() < counts.max()


def test_one_by_one_and_together_are_the_same() -> None:
    form = SimilarityUplink(0.4, laplace=0.05, bits=6)
    alone, _, alone_counts = added(form, tables(), groups=CLIENTS)
    for groups in (1, 2):
        total, _, counts = added(form, tables(), groups=groups)
        np.testing.assert_allclose(total, alone, atol=1e-5)
        np.testing.assert_array_equal(counts, alone_counts)


@pytest.mark.parametrize("together", [1, 2, 3, 5, 9])
def test_side_by_side_is_one_by_one(together) -> None:
    """Where batches do not divide the clients, the last one adds nobody twice."""
    form = SimilarityUplink(0.4, laplace=0.05, bits=6)
    keys = jax.random.split(jax.random.key(9, impl="threefry2x32"), CLIENTS)
    uploads = jax.vmap(form.transform().apply)(keys, tables())
    weights = jnp.array([1.0, 0.0, 2.0, 1.0, 0.5])
    expected, expected_counts = jax.jit(form.add)(None, uploads, weights)
    found, counts = jax.jit(partial(form.add, together=together))(expected, uploads, weights)
    np.testing.assert_allclose(found.total, 2 * expected.total, atol=1e-5)
    assert found.weight == 9
    np.testing.assert_array_equal(counts, expected_counts)


def test_clients_are_side_by_side_on_accelerators_alone() -> None:
    form = SimilarityUplink(0.5)
    uploads = jax.eval_shape(
        lambda: uplink.Similarities(jnp.zeros((3, M, D)), jnp.zeros((3, 2), jnp.uint32))
    )
    traced = jax.jit(form.add).trace(None, uploads, jnp.ones(3))
    together = {
        platform: re.findall(r"batching_dims.*: \(tensor<(\d+)x", lowered.as_text())
        for platform in ("cpu", "cuda")
        for lowered in [traced.lower(lowering_platforms=(platform,))]
    }
    assert together == {"cpu": ["1"], "cuda": ["3"]}


def test_it_runs_without_jit() -> None:
    form = SimilarityUplink(0.4)
    jitted = added(form, tables())
    with jax.disable_jit():
        looped = added(form, tables())
    np.testing.assert_allclose(looped[0], jitted[0], atol=1e-5)
    np.testing.assert_array_equal(looped[2], jitted[2])


def test_sparse_round_trip_is_exact() -> None:
    """One client's upload: what the server reads as a sparse graph is its thresholded matrix."""
    items = tables(1)[:1]
    total, _, counts = added(SimilarityUplink(0.5), items)
    graph = similarity_graph(np.asarray(tiles.pack(total)), M, threshold=0.5).toarray()
    np.testing.assert_array_equal(graph + graph.T, total)
    assert np.count_nonzero(graph) == counts[0]
    np.testing.assert_allclose(total, cosine_similarity(items[0], threshold=0.5), atol=1e-6)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_quantized_values_lie_on_the_grid_both_sides_know(bits) -> None:
    items = tables(2)[:1]
    exact, _, count = added(SimilarityUplink(0.3), items)
    rounded, _, same = added(SimilarityUplink(0.3, bits=bits), items)
    assert count == same
    step = 0.7 / (2**bits - 1)
    kept = np.asarray(exact) > 0
    assert np.abs(rounded - exact)[kept].max() <= step / 2 + 1e-6
    level = (np.asarray(rounded)[kept] - 0.3) / step
    np.testing.assert_allclose(level, np.round(level), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(rounded)[~kept], 0)


def test_threshold_one_with_bits_is_finite() -> None:
    items = jnp.tile(tables()[:1, :1], (1, M, 1))  # copies of one item: all cosines 1
    total, _, _ = added(SimilarityUplink(1 - 1e-6, bits=4), items)
    np.testing.assert_allclose(total, 1 - np.eye(M), atol=1e-5)
    assert np.isfinite(added(SimilarityUplink(1.0, bits=4), items)[0]).all()


def test_noise_is_symmetric_independent_and_of_its_scale() -> None:
    items = jnp.tile(tables()[:1], (400, 1, 1))
    exact, _, _ = added(SimilarityUplink(0.3), items[:1])
    form = SimilarityUplink(0.3, laplace=0.1)
    total, _, counts = added(form, items)
    np.testing.assert_allclose(total, total.T, atol=1e-5)
    assert len(set(counts.tolist())) == 1  # noise comes after the threshold
    kept = np.triu(np.asarray(exact) > 0, 1)
    noise = (np.asarray(total) - 400 * np.asarray(exact))[kept] / np.sqrt(400)
    assert noise.std() == pytest.approx(np.sqrt(2) * 0.1, rel=0.5)
    assert len(np.unique(np.round(noise, 6))) == len(noise)


def test_the_wire_counts_pairs() -> None:
    items = tables()
    _, _, counts = added(SimilarityUplink(0.6), items)
    # 55 pairs of 11 items: 6 bits of index.
    assert uplink.pairs(M, int(counts[0]), value_bits=8).bits == min(14 * counts[0], 55 * 8)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (SimilarityUplink(0.0), "threshold=0.0 must be above 0 and at most 1"),
        (SimilarityUplink(1.2), "threshold=1.2"),
        (SimilarityUplink(float("nan")), "threshold=nan"),
        (SimilarityUplink(0.5, laplace=-1.0), "laplace=-1.0"),
        (SimilarityUplink(0.5, bits=17), "bits=17 must be a whole number from 1 to 16"),
    ],
)
def test_values_out_of_range(form, names) -> None:
    with pytest.raises(InputError, match=names) as error:
        form.check()
    assert "\n" not in str(error.value)


def test_more_items_than_can_be_counted() -> None:
    uploads = jax.eval_shape(
        lambda: uplink.Similarities(jnp.zeros((1, 65_537, 2)), jnp.zeros((1, 2), jnp.uint32))
    )
    with pytest.raises(InputError, match="at most 65536 can be counted"):
        jax.eval_shape(lambda u: SimilarityUplink(0.5).add(None, u, jnp.ones(1)), uploads)
