"""FedNCF: training against optax on the whole model, the weighted means, and what travels."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.methods.shared_items import Change
from fedjax_rec.seeding import Purpose
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.methods import reference
from tests.problems import client_data, small

KEY = jax.random.key(11)
ITEMS, DIM, LAYERS = 40, 3, (6, 4)
OPTIONS = {"dim": DIM, "layers": LAYERS, "lr": 0.02, "item_lr": 0.05, "batch_size": 8}
OPTIONS |= {"negatives": 2, "init_std": 0.5}


@cache
def build(options: tuple = ()) -> Method:
    """The method, one object for the same options: so that it is compiled once."""
    return methods.fedncf(**{**OPTIONS, **dict(options)})


@cache
def updating(method: Method):
    return jax.jit(method.local_update)


def start(clients: int | None = None, **options):
    problem = small(clients=clients)
    method = build(tuple(options.items()))
    server = method.init(jax.random.key(1), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(2), server, users)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    return method, client, method.broadcast(server), data


def logits_of(user, network, rows, users):
    """NCF with everything put side by side that its paper puts side by side; [n] users."""
    gmf, mlp = jnp.split(rows, 2, axis=1)
    hidden = jnp.concatenate([user["user_mlp"][users], mlp], axis=1)
    for number in range(len(LAYERS)):
        layer = network[f"layer_{number}"]
        hidden = jax.nn.relu(hidden @ layer[:, :-1].T + layer[:, -1])
    fused = jnp.concatenate([user["user_gmf"][users] * gmf, hidden], axis=1)
    return fused @ network["output"][0, :-1] + network["output"][0, -1]


def dense_training(config, user, network, items, batches):
    """Training through the whole table: every parameter has a dense gradient."""
    sides = [(user, network), items]
    rules = [getattr(optax, config.optimizer)(rate) for rate in (config.lr, config.item_lr)]
    states = [rule.init(side) for rule, side in zip(rules, sides, strict=True)]

    @jax.jit
    def step(sides, states, batch):
        rows, users, labels, kept = batch

        def loss(sides):
            (user, network), items = sides
            logits = logits_of(user, network, items[rows], users)
            each = optax.sigmoid_binary_cross_entropy(logits, labels)
            return jnp.sum(kept * each) / jnp.sum(kept)

        value, gradients = jax.value_and_grad(loss)(sides)
        for k in (0, 1):
            change, states[k] = rules[k].update(gradients[k], states[k])
            sides[k] = optax.apply_updates(sides[k], change)
        return sides, states, value

    losses = []
    for rows, users, labels in batches:
        short = config.batch_size - len(labels)
        batch = [np.pad(x, (0, short)) for x in (rows, users, labels, np.ones(len(labels)))]
        sides, states, value = step(sides, states, [*map(jnp.asarray, batch)])
        losses.append(float(value))
    return *sides[0], sides[1], np.mean(losses)


def table_of(change: Change, items) -> np.ndarray:
    return np.asarray(items.at[change.items].add(change.rows, mode="drop"))


@pytest.mark.parametrize("clients", [None, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_round_against_optax_on_dense_gradients(optimizer, clients) -> None:
    rates = {"lr": 0.3, "item_lr": 0.9} if optimizer == "sgd" else {}
    method, client, download, data = start(clients, optimizer=optimizer, **rates)
    trained, upload, info = updating(method)(KEY, client, download, data)
    items, network = download.shared
    batches = reference.batches_of(KEY, data, ITEMS, method.config)
    user, network, table, loss = dense_training(method.config, client.user, network, items, batches)
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4)
    jax.tree.map(close, trained.user, user)
    jax.tree.map(close, upload.network, network)
    close(table_of(upload.items, items), table)
    assert float(info.loss) == pytest.approx(loss, rel=1e-4)
    assert np.abs(table - np.asarray(items)).max() > 0.05


@pytest.mark.parametrize("clients", [None, 5])
def test_the_server_takes_means_weighted_by_interactions(clients) -> None:
    problem = small(clients=clients)
    method = build()
    engine = Engine(method, problem, client_mesh(None), seed=0)
    state = engine.initial_state()
    server = jax.tree.map(np.asarray, state.server)
    first = engine.client_states(state)
    download = method.broadcast(jax.tree.map(jnp.asarray, server))
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 1)
    key = jax.random.fold_in(key, int(Purpose.LOCAL_UPDATE))
    update = updating(method)
    weights, tables, networks, users = [], [], [], []
    for number in range(problem.num_clients):
        client = jax.tree.map(lambda x, n=number: jnp.asarray(x[n]), first)
        data = client_data(problem, number)
        data = data._replace(longest=data.positives)
        trained, upload, _ = update(jax.random.fold_in(key, number), client, download, data)
        weights.append(int(data.positives))
        tables.append(table_of(upload.items, download.shared.items))
        networks.append(upload.network)
        users.append(trained.user)
    assert len(set(weights)) > 1
    state, _ = engine.run_round(state, 1)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(state.server.items, np.average(tables, axis=0, weights=weights))
    means = jax.tree.map(lambda *x: np.average(x, axis=0, weights=weights), *networks)
    jax.tree.map(close, state.server.network, means)
    users = jax.tree.map(lambda *x: np.stack(x), *users)
    jax.tree.map(close, engine.client_states(state).user, users)


def test_the_order_of_clients_does_not_matter() -> None:
    method, client, download, data = start()
    server = method.init(jax.random.key(1), small())
    _, uploads, _ = jax.vmap(lambda key: method.local_update(key, client, download, data))(
        jax.random.split(jax.random.key(4), 5)
    )
    order, weights = np.array([3, 0, 4, 2, 1]), jnp.arange(1.0, 6.0)
    means = []
    for chosen in (np.arange(5), order):
        moved = jax.tree.map(lambda x, chosen=chosen: x[chosen], uploads)
        acc, _ = method.reduce(method.accumulator(server), moved, weights[chosen])
        means.append(method.server_step(KEY, server, acc))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *means)


def test_all_start_from_one_network_and_users_from_their_own_draws() -> None:
    method = build()
    phones, silos = (method.init(jax.random.key(1), small(clients=c)) for c in (None, 5))
    jax.tree.map(np.testing.assert_array_equal, phones, silos)
    one, other = (method.init_client(jax.random.key(k), phones, 8).user for k in (1, 2))
    for name in ("user_gmf", "user_mlp"):
        rows = np.concatenate([one[name], other[name]])
        assert len(np.unique(rows)) == rows.size


def test_what_travels() -> None:
    """The table and the network whole; or the named rows, their ids, and the network."""
    problem = small()
    numbers = 6 * (2 * DIM + 1) + 4 * 7 + (DIM + 4 + 1)  # of the network
    table = ITEMS * 2 * DIM
    found = {}
    for upload in ("table", "rows"):
        method = methods.fedncf(upload=upload, **OPTIONS)
        engine = Engine(method, problem, client_mesh(None))
        _, outcome = engine.run_round(engine.initial_state(), 1)
        found[upload] = outcome.bytes
        assert outcome.bytes.down_total == problem.num_clients * 4 * (table + numbers)
    assert found["table"].up_total == problem.num_clients * 4 * (table + numbers)
    beside_items = problem.num_clients * 4 * numbers
    assert beside_items < found["rows"].up_total < found["table"].up_total


def test_noise_gives_an_epsilon_for_items_and_network_together() -> None:
    noisy = {"clip": 1.0, "laplace": 0.5}
    method, client, download, data = start(**noisy)
    _, upload, _ = method.local_update(KEY, client, download, data)
    shapes = [(ITEMS, 2 * DIM), (6, 2 * DIM + 1), (4, 7), (1, DIM + 5)]
    expected = sum(2 * rows * dim**0.5 / 0.5 for rows, dim in shapes)
    assert method.epsilon(upload, 3) == pytest.approx(3 * expected)
    # Every number of the upload is one that the noise reaches.
    assert sum(x.size for x in jax.tree.leaves(upload)) == sum(a * b for a, b in shapes)
    assert all(x.ndim == 2 for x in jax.tree.leaves(upload))
    assert (
        methods.fedncf(upload="rows", **OPTIONS, **noisy).epsilon(
            upload._replace(items=Change(jnp.zeros(2, jnp.int32), jnp.zeros((2, 6)))), 1
        )
        is None
    )
    plain, *_ = start()
    assert plain.epsilon(upload, 1) is None


def test_scored_by_the_own_network_until_the_next_download() -> None:
    method, client, download, data = start(5)
    trained, upload, _ = updating(method)(KEY, client, download, data)
    users = jnp.full(ITEMS, 2)
    for state, network, items in (
        (trained, upload.network, table_of(upload.items, download.shared.items)),
        (method.retain(trained), download.shared.network, download.shared.items),
    ):
        expected = logits_of(trained.user, network, items, users)
        found = method.scores(state, download.shared, jnp.int32(2))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [(), (8, 0)])
def test_a_tower_needs_layers(layers) -> None:
    for name in ("fedncf", "ncf-central"):
        with pytest.raises(InputError, match=r"layers=.*one number of units or more"):
            methods.build(name, layers=layers)
