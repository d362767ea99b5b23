"""GPFedRec: the server against loops over clients, the client against its loss written out."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import for_each_batch
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods import Broadcast, ByClient, Uploads
from fedjax_rec.methods.gpfedrec import Server
from fedjax_rec.models import MLP, score
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small

TINY = {"dim": 4, "layers": (6, 4), "batch_size": 16, "negatives": 2, "item_lr_scale": 0.05}
ROWS, ITEMS, DIM = 7, 9, 4
CLIENT = np.array([3, 0, -1, 5, 1, -1, 2], np.int32)


def uploads(seed: int = 0, client: np.ndarray = CLIENT) -> Uploads:
    tables = np.random.default_rng(seed).normal(size=(ROWS, ITEMS, DIM)) + 0.5
    return Uploads(jnp.asarray(tables, jnp.float32), jnp.asarray(client))


def served(kept: Uploads, **options) -> Server:
    """The server after a round that started from targets of -1."""
    method = methods.gpfedrec(**TINY, **options)
    before = Server(jnp.zeros((ITEMS, DIM)), ByClient(-jnp.ones((ROWS, ITEMS, DIM))), ())
    return method.server_step(jax.random.key(0), before, None, kept)


def by_hand(tables, *, distance, threshold, count, layers):
    """E_k of the clients whose tables are given, in float64."""
    n = len(tables)
    links = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            a, b = tables[i].ravel(), tables[j].ravel()
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            links[i, j] = 1 - cosine if distance else cosine
    mean = links.mean()
    for _ in range(layers):
        new = np.zeros_like(tables)
        for i in range(n):
            near = [j for j in range(n) if links[i, j] > threshold * mean]
            if count is not None:
                near = sorted(range(n), key=lambda j: -links[i, j])[:count]
            new[i] = np.mean(tables[near or [i]], axis=0)
        tables = new
    return tables


@pytest.mark.parametrize("similarity", ["cosine", "distance"])
@pytest.mark.parametrize(
    ("threshold", "count", "layers"), [(1.0, None, 1), (1.0, None, 3), (0.5, None, 2), (1.0, 2, 2)]
)
def test_targets(similarity, threshold, count, layers) -> None:
    kept = uploads()
    server = served(
        kept,
        similarity=similarity,
        neighbour_threshold=threshold,
        neighbours=count,
        message_layers=layers,
    )
    present = CLIENT >= 0
    expected = by_hand(
        np.asarray(kept.values, np.float64)[present],
        distance=similarity == "distance",
        threshold=threshold,
        count=count,
        layers=layers,
    )
    np.testing.assert_allclose(server.targets.rows[present], expected, rtol=1e-4, atol=1e-5)
    assert (np.asarray(server.targets.rows)[~present] == -1).all()  # what they had
    np.testing.assert_allclose(server.items, expected.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_permuted_clients_have_permuted_targets() -> None:
    kept, order = uploads(), np.random.default_rng(1).permutation(ROWS)
    there = served(Uploads(kept.values[order], kept.client[order]))
    here = served(kept)
    np.testing.assert_allclose(there.targets.rows, here.targets.rows[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there.items, here.items, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"similarity": "distance"}, {"neighbours": 3}])
def test_identical_clients_have_identical_targets(options) -> None:
    kept = uploads()
    same = jnp.broadcast_to(kept.values[0], kept.values.shape)
    server = served(Uploads(same, kept.client), message_layers=2, **options)
    for row in np.flatnonzero(CLIENT >= 0):
        np.testing.assert_allclose(server.targets.rows[row], same[0], rtol=1e-5, atol=1e-6)


@cache
def engine(**options) -> Engine:
    return Engine(methods.gpfedrec(**TINY), small(12), client_mesh(1), **options)


def test_who_takes_no_part_keeps_its_target() -> None:
    run = engine(cohort=5)
    state = run.initial_state()
    first = run.server_state(state)
    assert (first.targets.rows == first.items).all()
    state, outcome = run.run_round(state, 1)
    after = run.server_state(state)
    changed = (after.targets.rows != first.targets.rows).any(axis=(1, 2))
    assert changed.sum() == outcome.participants == 5


def test_a_table_down_for_the_start_and_one_to_be_drawn_to() -> None:
    table = 4 * 40 * 4
    for weight, tables in ((1.0, 2), (0.0, 1)):
        run = Engine(methods.gpfedrec(**TINY, target_weight=weight), small(12), client_mesh(1))
        _, outcome = run.run_round(run.initial_state(), 1)
        assert outcome.bytes.up_total == 12 * table
        assert outcome.bytes.down_total == 12 * table * tables


@pytest.mark.parametrize("clients", [None, 3])
def test_training_is_gradient_descent_on_the_whole_loss(clients) -> None:
    method = methods.gpfedrec(**TINY | {"local_epochs": 2, "item_lr_scale": 2.0, "lr": 0.05})
    config, problem, key = method.config, small(12, clients=clients), jax.random.key(5)
    server = method.init(jax.random.key(1), problem)
    client = method.init_client(key, server, int(problem.users_per_client.max()))
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    target = jax.random.normal(jax.random.key(2), server.items.shape)
    model = MLP(data.num_users, config.layers, config.init_std)

    def loss(user, items, batch):
        logits = score(model, user, batch.users, items[batch.items])
        apart = jnp.mean((items - target) ** 2)
        return binary_cross_entropy(logits, batch.labels, batch.mask) + apart

    def step(carry, batch):
        user, items = carry
        by_user, by_items = jax.grad(loss, argnums=(0, 1))(user, items, batch)
        stepped = jax.tree.map(lambda x, g: x - 0.05 * g, user, by_user)
        stepped["embedding"] = user["embedding"] - 0.05 * 79 * by_user["embedding"]
        return stepped, items - (0.05 * 40 * 2 - 0.05) * by_items

    user, items = for_each_batch(
        key,
        data,
        step,
        (client.user, server.items),
        num_items=40,
        negatives=2,
        batch_size=16,
        epochs=2,
    )
    found, upload, _ = jax.jit(method.local_update)(
        key, client, Broadcast(server.items, target), data
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.user, user)
    np.testing.assert_allclose(upload, items, atol=1e-5)
    np.testing.assert_array_equal(found.items, upload)


def test_defaults_are_those_of_the_release() -> None:
    config = methods.gpfedrec().config
    assert (config.lr, config.batch_size, config.negatives, config.dim) == (0.1, 256, 4, 32)
    assert (config.layers, config.target_weight, config.local_epochs) == ((32, 16, 8), 1.0, 1)
    assert config.items_rate(1682) == pytest.approx(0.1 * 1682 * 80 - 0.1)
    assert config.lr * config.user_lr_scale == pytest.approx(0.1 * 80 - 0.1)
    assert methods.gpfedrec(item_lr=0.5).config.items_rate(1682) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "optimizer='adam': gpfedrec trains by SGD"),
        ({"layers": ()}, r"layers=\(\): give one number"),
        ({"layers": (8, 0)}, "layers=8 0"),
        ({"similarity": "euclid"}, "similarity='euclid'.*cosine, distance"),
        ({"neighbours": 0}, "neighbours=0 must be at least 1"),
        ({"message_layers": 0}, "message_layers=0 must be at least 1"),
        ({"target_weight": -1.0}, "target_weight=-1.0 must be a finite number"),
        ({"user_lr_scale": float("inf")}, "user_lr_scale=inf must be a finite number"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message):
        methods.gpfedrec(**options)
