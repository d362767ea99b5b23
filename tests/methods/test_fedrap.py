"""FedRAP against whole tables in float64; its ramps, early stop, mean, and what stays private."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec import methods
from fedjax_rec.batches import draw_round
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.methods.fedrap import Client, Download
from fedjax_rec.methods.fedrap_training import Terms, ramp, train_tables
from fedjax_rec.methods.local_training import LocalTraining
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.seeding import Purpose
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.losses.reference import cross_entropy, cross_entropy_gradient
from tests.methods import reference
from tests.problems import client_data, small

KEY = jax.random.key(11)
ITEMS, DIM = 40, 4
OPTIONS = {"dim": DIM, "lr": 0.3, "item_lr": 3.0, "batch_size": 8, "negatives": 2}
OPTIONS |= {"local_epochs": 3, "weight_decay": 0.02, "step_decay": 0.9, "round_decay": 0.8}
OPTIONS |= {"apart_weight": 0.3, "sparse_weight": 0.2, "tolerance": 0.0}


@cache
def build(options: tuple = ()) -> Method:
    """The method, one object for the same options: so that it is compiled once."""
    return methods.fedrap(**{**OPTIONS, **dict(options)})


@cache
def updating(method: Method):
    return jax.jit(method.local_update)


def start(clients: int | None = None, passed: int = 3, **options):
    """The method, one of its clients with a past, and its download."""
    problem = small(clients=clients)
    method = build(tuple(options.items()))
    server = method.init(jax.random.key(1), problem)
    client = method.init_client(jax.random.key(2), server, int(problem.users_per_client.max()))
    noise = iter(jax.random.split(jax.random.key(3), 9))
    head = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape), client.head)
    client = client._replace(head=head)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    return method, client, Broadcast(Download(server.common, jnp.int32(passed))), data


def by_hand(config, client: Client, common, passed: int, data):
    """A round on whole tables: (kernel, bias, D, C, mean BCE, epochs)."""
    f64 = lambda x: np.array(x, np.float64)  # noqa: E731
    kernel, bias = f64(client.head["kernel"]), f64(client.head["bias"])
    tables = [f64(client.personal), f64(common)]
    rates = [config.item_lr if config.personal_lr is None else config.personal_lr, config.item_lr]
    level = math.tanh(passed / 10)
    rate = config.round_decay**passed
    samples = draw_round(KEY, data, ITEMS, config.negatives)
    once = LocalTraining(batch_size=config.batch_size, negatives=config.negatives, local_epochs=1)
    losses, total, count, means = [], 0.0, 0, []
    for epoch in range(config.local_epochs):
        key = jax.random.fold_in(KEY, 1 + epoch)
        for batch in reference.batches_of(key, data, ITEMS, once, samples):
            i, u, n = batch.items, batch.users, len(batch.items)
            d, c = (table[i] for table in tables)
            kept = np.ones(n)
            logits = ((d + c) * kernel[u]).sum(axis=1) + bias[u]
            losses.append(cross_entropy(logits, batch.labels, kept))
            residual = cross_entropy_gradient(logits, batch.labels, kept)
            by_kernel, by_bias = np.zeros_like(kernel), np.zeros_like(bias)
            np.add.at(by_kernel, u, residual[:, None] * (d + c))
            np.add.at(by_bias, u, residual)

            if config.penalty == "l1":
                value, slope = np.abs(c).mean(), np.sign(c) / c.size
            elif config.penalty == "l2":
                value, slope = (c**2).mean(), 2 * c / c.size
            else:
                left, values, right = np.linalg.svd(c, full_matrices=False)
                solid = values > 1e-3 * values[0]
                value, slope = values.sum(), left[:, solid] @ right[solid]
            apart = 2 * config.apart_weight * level * (d - c) / d.size
            fit = residual[:, None] * kernel[u]
            rows = [fit - apart, fit + apart + config.sparse_weight * level * slope]
            objective = losses[-1] - config.apart_weight * level * ((d - c) ** 2).mean()
            total += n * (objective + config.sparse_weight * level * value)
            count += n

            def moved(x, gradient, lr, rate=rate):
                return x - rate * lr * (gradient + config.weight_decay * x)

            kernel, bias = moved(kernel, by_kernel, config.lr), moved(bias, by_bias, config.lr)
            for k in (0, 1):
                dense = np.zeros_like(tables[k])
                np.add.at(dense, i, rows[k])
                tables[k] = moved(tables[k], dense, rates[k])
            rate *= config.step_decay
        means.append(total / count)
        if epoch and abs(means[-1] - means[-2]) < config.tolerance * abs(means[-2]):
            break
    return kernel, bias, *tables, np.mean(losses), len(means)


def epochs_of(config, client, download, data) -> int:
    """How many epochs a round takes: what ``local_update`` itself does not tell."""
    common, passed = download.shared
    touched = touched_rows(draw_round(KEY, data, ITEMS, config.negatives), ITEMS)
    level, fading = ramp(config.ramp, passed), config.round_decay ** float(passed)
    weights = config.apart_weight * level, config.sparse_weight * level
    rates = config.lr, config.item_lr, config.item_lr
    trained = train_tables(
        KEY,
        client.head,
        jnp.concatenate([touched.rows(client.personal), touched.rows(common)], axis=1),
        touched.samples,
        data,
        Terms(*weights, *(jnp.float32(lr * fading) for lr in rates)),
        config,
        num_items=ITEMS,
    )
    return int(trained.epochs)


@pytest.mark.parametrize(
    ("options", "clients"),
    [
        ({}, None),
        ({"personal_lr": 0.5}, 5),
        ({"penalty": "l2"}, None),
        ({"penalty": "nuclear"}, None),
    ],
)
def test_a_round_against_whole_tables(options, clients) -> None:
    """Decay reaches items that no sample names; rates fade by step and by round."""
    method, client, download, data = start(clients, **options)
    trained, upload, info = updating(method)(KEY, client, download, data)
    kernel, bias, personal, common, loss, _ = by_hand(
        method.config, client, download.shared.common, 3, data
    )
    exact = "penalty" not in options or options["penalty"] != "nuclear"
    close = {"rtol": 1e-4, "atol": 1e-5} if exact else {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(trained.head["kernel"], kernel, **close)
    np.testing.assert_allclose(trained.head["bias"], bias, **close)
    np.testing.assert_allclose(trained.personal, personal, **close)
    np.testing.assert_allclose(trained.common, common, **close)
    np.testing.assert_array_equal(upload, trained.common)
    assert float(info.loss) == pytest.approx(loss, rel=1e-4)
    assert np.abs(common - np.asarray(download.shared.common)).max() > 0.05


@pytest.mark.parametrize("tolerance", [0.03, 0.06, 10.0])
def test_a_client_stops_when_an_epoch_changes_little(tolerance) -> None:
    method, client, download, data = start(local_epochs=9, tolerance=tolerance)
    trained, _, _ = updating(method)(KEY, client, download, data)
    *_, common, _, epochs = by_hand(method.config, client, download.shared.common, 3, data)
    assert epochs_of(method.config, client, download, data) == epochs
    assert 2 <= epochs < 9
    np.testing.assert_allclose(trained.common, common, rtol=1e-3, atol=1e-4)
    if tolerance == 10.0:
        assert epochs == 2  # the first epoch has nothing to be compared with


def test_side_by_side_clients_stop_each_for_itself() -> None:
    method, client, download, data = start(local_epochs=9, tolerance=0.02)
    keys = jax.random.split(jax.random.key(4), 6)
    run = jax.jit(lambda key: method.local_update(key, client, download, data))
    together = jax.jit(jax.vmap(lambda key: method.local_update(key, client, download, data)))(keys)
    for number, key in enumerate(keys):
        one = jax.tree.map(lambda x, n=number: x[n], together)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, run(key)
        )


def test_ramps() -> None:
    rounds = range(12)
    for kind, expected in {
        "tanh": [math.tanh(t / 10) for t in rounds],
        "sin": [(math.sin(t / 10) + 1) / 2 for t in rounds],
        "frac": [1 / (t + 1) for t in rounds],
        "square": [1.0] * 5 + [0.0] * 5 + [1.0] * 2,
        "fixed": [1.0] * 12,
    }.items():
        found = [float(ramp(kind, jnp.int32(t))) for t in rounds]
        assert found == pytest.approx(expected, abs=1e-6)


@given(st.sampled_from(["tanh", "sin", "frac", "square", "fixed"]), st.integers(0, 10**6))
def test_ramps_are_shares(kind, passed) -> None:
    assert 0 <= float(ramp(kind, jnp.int32(passed))) <= 1


def test_the_first_round_has_no_terms_yet_and_the_releases_has_all() -> None:
    method, client, download, data = start(passed=0)
    without, *_ = start(apart_weight=0.0, sparse_weight=0.0)
    release, *_ = start(ramp="fixed")
    first, none, full = (
        updating(m)(KEY, client, download, data)[1] for m in (method, without, release)
    )
    np.testing.assert_array_equal(first, none)
    assert np.abs(full - none).max() > 1e-3


def test_the_terms_push_the_tables_apart_and_shrink_the_common_one() -> None:
    found = {}
    for name, weights in {
        "neither": {"apart_weight": 0.0, "sparse_weight": 0.0},
        "apart": {"apart_weight": 2.0, "sparse_weight": 0.0},
        "sparse": {"apart_weight": 0.0, "sparse_weight": 2.0},
    }.items():
        method, client, download, data = start(passed=20, round_decay=1.0, **weights)
        trained, _, _ = updating(method)(KEY, client, download, data)
        between = float(jnp.mean((trained.personal - trained.common) ** 2))
        found[name] = between, float(jnp.mean(jnp.abs(trained.common)))
    assert found["apart"][0] > 1.05 * found["neither"][0]
    assert found["sparse"][1] < 0.95 * found["neither"][1]


def test_the_term_between_the_tables_has_no_bound() -> None:
    """With a large λ nothing holds it back, and the run ends with a clear error."""
    method = methods.fedrap(**OPTIONS | {"apart_weight": 1e4, "ramp": "fixed", "item_lr": 50.0})
    engine = Engine(method, small(), client_mesh(1), evaluate_at="trained")
    with pytest.raises(TrainingError, match="training diverged in round"):
        engine.run_round(engine.initial_state(), 1)


@pytest.mark.parametrize("clients", [None, 5])
def test_the_server_takes_the_plain_mean_of_the_common_tables(clients) -> None:
    problem = small(clients=clients)
    method = build()
    engine = Engine(method, problem, client_mesh(None), seed=0)
    state = engine.initial_state()
    server, personal = jax.tree.map(np.asarray, state.server), []
    download = method.broadcast(server)
    users = int(problem.users_per_client.max())
    update, total = updating(method), np.zeros((ITEMS, DIM))
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 1)
    key = jax.random.fold_in(key, int(Purpose.LOCAL_UPDATE))
    for number in range(problem.num_clients):
        client = method.init_client(jax.random.key(0), server, users)
        data = client_data(problem, number)
        data = data._replace(longest=data.positives)
        trained, upload, _ = update(jax.random.fold_in(key, number), client, download, data)
        total += np.asarray(upload, np.float64)
        personal.append(trained.personal)
    state, _ = engine.run_round(state, 1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(state.server.common, total / problem.num_clients, **close)
    np.testing.assert_allclose(engine.client_states(state).personal, np.stack(personal), **close)
    assert int(state.server.passed) == 1


def test_the_order_of_clients_does_not_matter() -> None:
    method, client, download, data = start()
    keys = jax.random.split(jax.random.key(4), 5)
    round_ = jax.vmap(lambda key: method.local_update(key, client, download, data))
    order = np.array([3, 0, 4, 2, 1])
    states, uploads, _ = round_(keys)
    moved_states, moved_uploads, _ = round_(keys[order])
    server = method.init(jax.random.key(1), small())
    means = [
        method.server_step(KEY, server, method.reduce(None, x, jnp.ones(5))[0]).common
        for x in (uploads, moved_uploads)
    ]
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-6),
        states,
        moved_states,
    )


def test_alike_clients_stay_alike_and_their_mean_is_each_ones_own() -> None:
    method, client, download, data = start()
    server = method.init(jax.random.key(1), small())
    states, uploads, _ = jax.vmap(lambda key: method.local_update(key, client, download, data))(
        jnp.stack([KEY] * 4)
    )
    server = method.server_step(KEY, server, method.reduce(None, uploads, jnp.ones(4))[0])
    np.testing.assert_allclose(server.common, states.common[0], rtol=1e-6, atol=1e-7)
    for k in (1, 2, 3):
        np.testing.assert_array_equal(states.personal[k], states.personal[0])


def test_scored_by_the_own_personal_table_and_the_newest_common_one() -> None:
    method, client, download, data = start()
    trained, upload, _ = updating(method)(KEY, client, download, data)
    kernel, bias = trained.head["kernel"][0], trained.head["bias"][0]
    newest = Download(upload + 1, jnp.int32(4))
    kept = method.retain(trained)
    assert kept.common == ()
    for state, common in ((trained, upload), (kept, newest.common)):
        expected = (trained.personal + common) @ kernel + bias
        found = method.scores(state, newest, jnp.int32(0))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


WRONG = [
    ({"optimizer": "adam"}, "optimizer='adam': fedrap trains by SGD"),
    ({"ramp": "tan"}, "ramp='tan'.*did you mean tanh"),
    ({"penalty": "l3"}, "penalty='l3'"),
    ({"apart_weight": -1.0}, "apart_weight=-1.0 must be a finite number"),
    ({"tolerance": float("nan")}, "tolerance=nan must be a finite number"),
    ({"step_decay": 0.0}, "step_decay=0.0 must be above 0"),
    ({"round_decay": 1.5}, "round_decay=1.5 must be above 0 and at most 1"),
    ({"local_epochs": 0}, "local_epochs=0 must be at least 1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        methods.fedrap(**options)
    assert "\n" not in str(error.value)


def test_defaults_are_the_releases() -> None:
    config = methods.fedrap().config
    assert (config.lr, config.item_lr, config.weight_decay) == (0.5, 200.0, 1e-4)
    assert (config.batch_size, config.local_epochs, config.negatives) == (2048, 10, 4)
    assert (config.step_decay, config.round_decay, config.tolerance) == (0.95, 0.97, 1e-4)
    assert (config.apart_weight, config.sparse_weight) == (0.1, 0.1)
    assert (config.ramp, config.penalty, config.dim, config.init_std) == ("tanh", "l1", 32, 1.0)
