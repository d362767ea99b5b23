"""CoFedRec: the group of a round against a loop over clients, and who downloads its mean."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.methods import ByClient, Uploads
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.methods.cgfedrec import Server as Clusters
from fedjax_rec.methods.cofedrec import Server, Upload
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import small
from tests.relations.test_elbow import by_hand as elbow_by_hand

TINY = {"dim": 4, "clusters": 3, "batch_size": 16, "negatives": 2, "item_lr_scale": 0.05}
ITEMS, DIM = 9, 4
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 2], np.int32)
CLIENT = np.array([3, 0, -1, 5, 1, -1, 2, 4], np.int32)


def uploads() -> Uploads:
    """Two kinds of clients, even and odd ids."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, ITEMS, DIM))
    tables = kinds[CLIENT % 2] + 0.2 * rng.normal(size=(len(CLIENT), ITEMS, DIM))
    tables[CLIENT < 0] = np.nan
    values = Upload(jnp.asarray(tables, jnp.float32), jnp.zeros(len(CLIENT), jnp.int32))
    return Uploads(values, jnp.asarray(CLIENT))


def finished(seed: int, kept: Uploads) -> Server:
    method = methods.cofedrec(**TINY)
    labels = Labels(jnp.asarray(LABELS), jnp.bool_(True))
    nothing = jnp.zeros((ITEMS, DIM))
    clusters = Clusters(nothing, labels, head=(), modularity=())
    group = ByClient(jnp.ones(len(kept.client), bool))
    return method.server_finish(jax.random.key(seed), Server(clusters, nothing, group), kept)


def group_by_hand(tables: dict[int, np.ndarray], chosen: int, cluster: int) -> set[int]:
    values = np.full(max(tables) + 1, np.nan)
    for id_, table in tables.items():
        values[id_] = 0
        for item in np.flatnonzero(cluster == LABELS):
            a, b = table[item].astype(float), tables[chosen][item].astype(float)
            values[id_] += a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return elbow_by_hand(values, ~np.isnan(values))


def test_the_group_is_that_of_some_client_and_cluster() -> None:
    kept, seen = uploads(), set()
    ids = [int(c) for c in CLIENT if c >= 0]
    tables = {c: np.asarray(kept.values.items[CLIENT.tolist().index(c)]) for c in ids}
    possible = {frozenset(group_by_hand(tables, c, i)) for c in ids for i in range(3)}
    for seed in range(12):
        server = finished(seed, kept)
        members = np.flatnonzero(server.group.rows)
        group = frozenset(CLIENT[members].tolist())
        assert group in possible
        seen.add(group)
        mean = np.mean([tables[c] for c in group], axis=0)
        np.testing.assert_allclose(server.items, mean, rtol=1e-5, atol=1e-6)
    assert len(seen) > 1  # another client or cluster every round


def test_permuted_clients_are_in_the_same_group() -> None:
    kept = uploads()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(CLIENT))
        moved = Uploads(jax.tree.map(lambda x, o=order: x[o], kept.values), kept.client[order])
        there, here = finished(seed, moved), finished(seed, kept)
        np.testing.assert_array_equal(there.group.rows, np.asarray(here.group.rows)[order])
        np.testing.assert_allclose(there.items, here.items, rtol=1e-5, atol=1e-6)


def test_identical_clients_share_what_they_have() -> None:
    kept = uploads()
    same = jnp.broadcast_to(kept.values.items[0], kept.values.items.shape)
    server = finished(0, Uploads(kept.values._replace(items=same), kept.client))
    np.testing.assert_allclose(server.items, same[0], rtol=1e-6)
    assert 1 <= int(np.sum(server.group.rows)) <= 6


@cache
def engine(**options) -> Engine:
    return Engine(methods.cofedrec(**TINY), small(12), client_mesh(1), **options)


def test_members_alone_download_the_mean() -> None:
    run = engine()
    state = run.initial_state()
    state, first = run.run_round(state, 1)
    assert first.bytes.down_total == 0  # no labels, no group
    server = run.server_state(state)
    members = server.group.rows
    assert 0 < members.sum() <= 12
    before = run.client_states(state).items
    method = run.method
    for client in range(12):
        own = jax.tree.map(lambda x, c=client: x[c], run.client_states(state))
        download = method.broadcast(server)._replace(per_client=members[client])
        items = method.receive(jax.random.key(0), own, download, None).items
        expected = server.items if members[client] else before[client]
        np.testing.assert_array_equal(items, expected)

    labels, table = -(-40 * 2 // 8), 4 * 40 * 4  # 2 bits for each of 3 clusters
    _, second = run.run_round(state, 2)
    assert second.bytes.down_total == 12 * labels + int(members.sum()) * table
    assert second.bytes.up_total == 12 * table


def test_groups_are_of_those_who_take_part() -> None:
    run = engine(cohort=4)
    state = run.initial_state()
    tables = run.client_states(state).items
    for number in (1, 2, 3):
        state, _ = run.run_round(state, number)
        after = run.client_states(state).items
        took_part = (after != tables).any(axis=(1, 2))
        members = run.server_state(state).group.rows
        assert took_part.sum() == 4
        assert 1 <= members.sum() <= 4
        assert not (members & ~took_part).any()
        tables = after


def test_options_are_those_of_the_release() -> None:
    method = methods.cofedrec()
    config = method.config
    assert (config.clusters, config.contrast_weight, config.local_epochs) == (30, 0.005, 2)
    assert (config.temperature, config.base_temperature) == (0.1, 0.5)
    assert (config.optimizer, config.lr, config.item_lr_scale) == ("sgd", 0.1, 80.0)
    assert method.published_evaluation == "download"
    upload = Upload(jnp.zeros((5, 4)), jnp.int32(0))
    assert methods.cofedrec(clip=1.0, laplace=1.0).epsilon(upload, 3) == pytest.approx(60)


def test_communities_are_drawn_among_those_that_there_are() -> None:
    method = methods.cofedrec(**TINY | {"clustering": "leiden", "similarity_threshold": 0.1})
    run = Engine(method, small(12), client_mesh(1))
    state = run.initial_state()
    for number in (1, 2):
        state, outcome = run.run_round(state, number)
    assert np.isfinite(outcome.train_loss)
    assert run.server_state(state).group.rows.any()
    assert set(method.diagnostics(run.server_state(state))) == {"modularity"}
