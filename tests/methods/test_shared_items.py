"""Clients that hold the rows they train: the same rounds as with whole tables, fewer bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import draw_round
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import WeightedSum
from fedjax_rec.methods.shared_items import Change, Held, own_scores, shared_items
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.seeding import Purpose
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small

# Decay far below a float's last bit: the same numbers, but whole tables are needed for it.
WHOLE = {"weight_decay": 1e-30}


def two_rounds(method, problem):
    engine = Engine(method, problem, client_mesh(None), evaluate_at="trained")
    state = engine.initial_state()
    for number in (1, 2):
        state, outcome = engine.run_round(state, number, evaluate=number == 2)
    return np.asarray(state.server.items), outcome


@pytest.mark.parametrize(
    ("name", "options", "clients"),
    [
        ("pfedrec", {}, None),
        ("fedmf", {"optimizer": "adam", "lr": 0.01, "item_lr": 0.01}, 4),
        ("fedmf", {"resample_negatives": False, "local_epochs": 2}, None),
        ("fedncf", {"layers": (6, 4), "lr": 0.01, "item_lr": 0.01}, 4),
    ],
)
def test_touched_rows_and_whole_tables_give_the_same_rounds(name, options, clients) -> None:
    problem = small(clients=clients)
    build = getattr(methods, name)
    rows, by_rows = two_rounds(build(dim=4, **options), problem)
    table, by_table = two_rounds(build(dim=4, **options, **WHOLE), problem)
    np.testing.assert_allclose(rows, table, rtol=1e-5, atol=1e-6)
    assert by_rows.train_loss == pytest.approx(by_table.train_loss, rel=1e-6)
    assert by_rows.bytes == by_table.bytes
    for field, ranks in by_rows.ranks.items():
        np.testing.assert_array_equal(ranks, by_table.ranks[field])


def test_rows_on_the_wire_are_those_of_the_samples_and_their_ids() -> None:
    problem = small()
    dim, id_bits = 4, (problem.num_items - 1).bit_length()
    method = methods.pfedrec(dim=dim, upload="rows")
    engine = Engine(method, problem, client_mesh(None), seed=0)
    _, outcome = engine.run_round(engine.initial_state(), 1)

    expected = 0
    round_key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 1)
    for client in range(problem.num_clients):
        data = client_data(problem, client)
        key = jax.random.fold_in(round_key, int(Purpose.LOCAL_UPDATE))
        samples = draw_round(jax.random.fold_in(key, client), data, problem.num_items, 4)
        count = int(touched_rows(samples, problem.num_items).mask.sum())
        expected += 4 * count * dim + -(-count * id_bits // 8)
    assert outcome.bytes.up_total == expected
    table = 4 * problem.num_items * dim
    assert outcome.bytes.down_total == table * problem.num_clients
    assert expected < table * problem.num_clients


def test_the_mean_is_that_of_the_tables() -> None:
    form = shared_items(methods.pfedrec(dim=2).config)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 2)).astype(np.float32)
    items = np.array([[0, 2, 6], [2, 5, 6], [1, 6, 6]], np.int32)  # 6: padding
    change = rng.normal(size=(3, 3, 2)).astype(np.float32)
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    acc, sent = form.reduce(
        form.accumulator(jnp.asarray(table)), Change(items, jnp.asarray(change)), weights
    )
    assert sent is None
    tables = np.repeat(table[None].astype(np.float64), 3, axis=0)
    for client in range(3):
        for item, row in zip(items[client], change[client], strict=True):
            if item < 6:
                tables[client, item] += row
    expected = np.average(tables, axis=0, weights=weights)
    np.testing.assert_allclose(form.mean(table, acc), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"weight_decay": 0.1}, {"clip": 1.0}, {"bits": 8}, {"laplace": 0.1, "clip": 1.0}],
)
def test_whole_tables_where_all_rows_change(options) -> None:
    form = shared_items(methods.fedmf(dim=2, **options).config)
    table = jnp.ones((6, 2))
    upload = form.upload(table, Held((), table))
    acc, _ = form.reduce(form.accumulator(table), upload[None], jnp.ones(1))
    assert isinstance(acc, WeightedSum)
    np.testing.assert_array_equal(form.mean(table, acc), table)


def test_noise_on_every_row_of_a_table_gives_epsilon_and_on_named_rows_none() -> None:
    table = jnp.zeros((6, 2))
    noisy = {"clip": 1.0, "laplace": 0.1}
    assert methods.pfedrec(**noisy).epsilon(table, 1) is not None
    named = Change(jnp.zeros(3, jnp.int32), jnp.zeros((3, 2)))
    assert methods.pfedrec(upload="rows", **noisy).epsilon(named, 1) is None


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"keep_optimizer": True}])
def test_rows_alone_cannot_travel_where_all_change(options) -> None:
    with pytest.raises(InputError, match="upload='rows'"):
        methods.fedmf(upload="rows", **options)
    with pytest.raises(InputError, match="upload='some'"):
        methods.fedmf(upload="some")


def test_scores_by_the_rows_that_a_client_holds() -> None:
    table = jnp.arange(6.0)[:, None]
    held = Held(jnp.array([1, 4, 6]), jnp.array([[10.0], [40.0], [99.0]]))
    score = lambda rows: rows[:, 0]  # noqa: E731
    np.testing.assert_array_equal(own_scores(score, table, held), [0, 10, 2, 3, 40, 5])
    np.testing.assert_array_equal(own_scores(score, table, ()), np.arange(6))
    whole = Held((), 2 * table)
    np.testing.assert_array_equal(own_scores(score, table, whole), 2 * np.arange(6))
