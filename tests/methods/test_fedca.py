"""FedCA: the server's weights against a solver, client by client; what it mixes; what travels."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast, ByClient, Uploads
from fedjax_rec.methods.fedca import Server, Upload, composite_weights
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small
from tests.relations.test_simplex import solved
from tests.relations.test_subspaces import bases, spread

TINY = {"dim": 8, "components": 3, "batch_size": 16, "negatives": 2, "local_epochs": 2}
ROWS, ITEMS, DIM = 7, 15, 8
CLIENT = np.array([3, 0, -1, 5, 1, -1, 2], np.int32)
PRESENT = CLIENT >= 0


def uploads() -> Uploads:
    rng = np.random.default_rng(0)
    tables = np.stack([spread(ITEMS, DIM, seed) for seed in range(ROWS)])
    tables[~PRESENT] = np.nan
    values = Upload(
        jnp.asarray(tables),
        jnp.asarray(bases(ROWS, 3, DIM)),
        jnp.asarray(rng.integers(5, 60, ROWS), jnp.int32),
    )
    return Uploads(values, jnp.asarray(CLIENT))


def weights_by_hand(values: Upload, config) -> np.ndarray:
    """[n, n] of those present, by the quadratic program of each client on its own."""
    rows = np.flatnonzero(PRESENT)
    along = []
    for row in rows:
        table = np.asarray(values.items[row], float)
        table = table - table.mean(axis=0)
        along.append(table @ np.linalg.svd(table)[2][0])
    positives = np.asarray(values.positives)[rows]
    out = []
    for i, a in enumerate(rows):
        wanted = positives / positives.sum()
        for j, b in enumerate(rows):
            product = np.asarray(values.basis[a], float) @ np.asarray(values.basis[b], float).T
            angles = np.arccos(np.clip(np.linalg.svd(product)[1], 0, 1))
            wanted[j] += config.complementarity_weight * np.cos(angles.mean())
            apart = min(np.linalg.norm(along[i] - along[j]), np.linalg.norm(along[i] + along[j]))
            wanted[j] += config.similarity_weight / (1 + apart)
        out.append(solved(wanted))
    return np.array(out)


@pytest.mark.parametrize("one", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("two", [0.0, 0.3])
def test_weights_solve_the_quadratic_programs(one, two) -> None:
    config = methods.fedca(**TINY, complementarity_weight=one, similarity_weight=two).config
    kept = uploads()
    found = np.asarray(composite_weights(kept.values, PRESENT, config))[PRESENT]
    assert (found[:, ~PRESENT] == 0).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    expected = weights_by_hand(kept.values, config)
    np.testing.assert_allclose(found[:, PRESENT], expected, atol=2e-3 if one > 1 else 5e-4)


def served(kept: Uploads, seed: int = 0, **options) -> Server:
    method = methods.fedca(**TINY, **options)
    before = Server(jnp.zeros((ITEMS, DIM)), ByClient(-jnp.ones((ROWS, ITEMS, DIM))))
    return method.server_step(jax.random.key(seed), before, None, kept)


def test_mixes_are_weighted_sums_of_all_tables() -> None:
    kept = uploads()
    server = served(kept)
    weights = weights_by_hand(kept.values, methods.fedca(**TINY).config)
    expected = np.einsum("kj,jmd->kmd", weights, np.asarray(kept.values.items, float)[PRESENT])
    np.testing.assert_allclose(server.mixes.rows[PRESENT], expected, atol=2e-3)
    assert (np.asarray(server.mixes.rows)[~PRESENT] == -1).all()
    np.testing.assert_allclose(server.items, expected.mean(axis=0), atol=2e-3)


def test_permuted_clients_have_permuted_mixes() -> None:
    kept, order = uploads(), np.random.default_rng(1).permutation(ROWS)
    for options in ({}, {"mixed_share": 0.5}):
        moved = Uploads(jax.tree.map(lambda x: x[order], kept.values), kept.client[order])
        there, here = served(moved, **options), served(kept, **options)
        np.testing.assert_allclose(there.mixes.rows, here.mixes.rows[order], rtol=1e-4, atol=1e-4)


def test_identical_clients_have_identical_mixes() -> None:
    kept = uploads()
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[0], x.shape), kept.values)
    server = served(Uploads(same, kept.client))
    for row in np.flatnonzero(PRESENT):
        np.testing.assert_allclose(server.mixes.rows[row], same.items[0], rtol=1e-5, atol=1e-5)


def test_whoever_is_not_mixed_keeps_its_own_table() -> None:
    kept = uploads()
    mixed = served(kept, mixed_share=0.4)  # 2 of 5
    own = np.abs(mixed.mixes.rows - kept.values.items).max(axis=(1, 2))[PRESENT] < 1e-6
    assert own.sum() == 3


@cache
def engine(**options) -> Engine:
    return Engine(methods.fedca(**TINY), small(12), client_mesh(1), **options)


def test_clients_go_on_from_their_own_table_and_their_mix() -> None:
    run = engine(cohort=5)
    state = run.initial_state()
    for number in (1, 2):
        state, _ = run.run_round(state, number)
    server, states = run.server_state(state), run.client_states(state)
    for client in range(3):
        own = jax.tree.map(lambda x, c=client: x[c], states)
        download = Broadcast((), server.mixes.rows[client])
        items = run.method.receive(jax.random.key(0), own, download, None).items
        expected = 0.9 * own.items + 0.1 * server.mixes.rows[client]
        np.testing.assert_allclose(items, expected, rtol=1e-5, atol=1e-6)


def test_who_takes_no_part_keeps_its_mix() -> None:
    run = engine(cohort=5)
    state = run.initial_state()
    before = run.server_state(state).mixes.rows
    state, _ = run.run_round(state, 1)
    changed = (run.server_state(state).mixes.rows != before).any(axis=(1, 2))
    assert changed.sum() == 5


def test_the_upload_names_no_item() -> None:
    """A table, the subspace that the client found itself, and a number."""
    run = engine()
    _, outcome = run.run_round(run.initial_state(), 1)
    assert outcome.bytes.up_total == 12 * (4 * 40 * 8 + 4 * 3 * 8 + 4)
    assert outcome.bytes.down_total == 12 * 4 * 40 * 8


@pytest.mark.parametrize("decay", [0.0, 1e-12])  # with decay, rows that no sample names change too
def test_the_subspace_is_of_the_trained_positives(decay) -> None:
    method, problem = methods.fedca(**TINY, weight_decay=decay), small(12)
    server = method.init(jax.random.key(1), problem)
    client = method.init_client(jax.random.key(2), server, 1)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    after, upload, info = jax.jit(method.local_update)(
        jax.random.key(3), client, Broadcast((), server.items), data
    )
    count = int(data.positives)
    met = np.asarray(upload.items, float)[np.asarray(data.items)[:count]]
    expected = np.linalg.svd(met - met.mean(axis=0))[2][:3]
    angles = np.linalg.svd(np.asarray(upload.basis, float) @ expected.T)[1]
    np.testing.assert_allclose(angles, 1, atol=1e-4)
    assert int(upload.positives) == count
    np.testing.assert_array_equal(after.items, upload.items)
    assert float(info.loss) > 0
    moved = (np.asarray(upload.items) != np.asarray(server.items)).any(axis=1)
    assert moved[np.asarray(data.items)[:count]].all()
    assert 0 < moved.sum() <= 3 * count or decay


def test_decay_alone_changes_no_more_than_decay() -> None:
    plain, decayed = methods.fedca(**TINY), methods.fedca(**TINY, weight_decay=1e-30)
    problem = small(12)
    states = []
    for method in (plain, decayed):
        run = Engine(method, problem, client_mesh(1))
        state, _ = run.run_round(run.initial_state(), 1)
        states.append(run.client_states(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *states)


def test_options() -> None:
    config = methods.fedca().config
    assert (config.dim, config.optimizer, config.lr, config.item_lr) == (16, "adam", 0.01, 0.01)
    assert (config.local_epochs, config.components, config.interpolation) == (10, 4, 0.9)
    assert (config.complementarity_weight, config.similarity_weight) == (0.3, 0.3)
    assert methods.fedca().published_evaluation == "download"
    upload = Upload(jnp.zeros((6, 16)), jnp.zeros((4, 16)), jnp.int32(1))
    noisy = methods.fedca(clip=1.0, laplace=2.0)
    assert noisy.epsilon(upload, 1) == pytest.approx(2 * 10 * 4 / 2)  # the subspace's rows too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components=0 must be from 1 to dim=16"),
        ({"components": 17}, "components=17 must be from 1 to dim=16"),
        ({"interpolation": 1.1}, "interpolation=1.1 must be from 0 to 1"),
        ({"mixed_share": 0.0}, "mixed_share=0.0 must be above 0"),
        ({"similarity_weight": -0.1}, "similarity_weight=-0.1 must be a finite number"),
        ({"complementarity_weight": float("nan")}, "complementarity_weight=nan"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message):
        methods.fedca(**options)
