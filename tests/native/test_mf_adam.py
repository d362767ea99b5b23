"""The native training of matrix factorization, against float64 NumPy that steps every row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import Samples
from fedjax_rec.errors import InputError
from fedjax_rec.losses.kernel_choice import use_kernel
from fedjax_rec.native import require_compiler, train_mf_by_adam
from tests.problems import small
from tests.simulation.runs import make_engine, run_engine

try:
    require_compiler()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

NEGATIVES, POSITIVES, PADDING = 2, 7, 5
OPTIONS = {"lr": 0.05, "item_lr": 0.03, "batch_size": 4, "negatives": NEGATIVES}


def _case(dim: int, users: int = 3, items: int = 30, seed: int = 0):
    rng = np.random.default_rng(seed)
    count = POSITIVES * (1 + NEGATIVES)
    room = count + PADDING
    samples = Samples(
        rng.integers(0, items // 2, room).astype(np.int32),  # half of the items: nobody's
        rng.integers(0, users, room).astype(np.int32),
        np.arange(room) < count,
    )
    orders = [[*rng.permutation(count), *range(count, room)] for _ in range(2)]
    tables = [rng.normal(size=(n, dim)).astype(np.float32) for n in (users, items)]
    return *tables, samples, np.array(orders, np.int32)


def _expected(users, items, samples, orders, *, lr, item_lr, weight_decay, batch_size, negatives):
    """All rows of both tables step in every batch."""
    x = [users.astype(np.float64), items.astype(np.float64)]
    mean, square = ([np.zeros_like(each) for each in x] for _ in range(2))
    count, t, losses = int(samples.valid.sum()), 0, []
    for order in orders:
        for start in range(0, count, batch_size):
            batch = order[start : min(start + batch_size, count)]
            u, i = samples.users[batch], samples.items[batch]
            label = (batch % (1 + negatives) == 0).astype(np.float64)
            logits = np.sum(x[0][u] * x[1][i], axis=1)
            losses.append(np.mean(np.logaddexp(0, logits) - label * logits))
            slope = (1 / (1 + np.exp(-logits)) - label)[:, None] / len(batch)
            gradients = [weight_decay * each for each in x]
            np.add.at(gradients[0], u, slope * x[1][i])
            np.add.at(gradients[1], i, slope * x[0][u])
            t += 1
            for k, rate in enumerate((lr, item_lr)):
                mean[k] = 0.9 * mean[k] + 0.1 * gradients[k]
                square[k] = 0.999 * square[k] + 0.001 * gradients[k] ** 2
                root = np.sqrt(square[k] / (1 - 0.999**t)) + 1e-8
                x[k] = x[k] - rate / (1 - 0.9**t) * mean[k] / root
    return *x, np.mean(losses)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("dim", [1, 5, 16, 40])
def test_every_row_is_where_stepping_all_rows_leaves_it(dim, weight_decay) -> None:
    case = _case(dim)
    options = {**OPTIONS, "weight_decay": weight_decay}
    *tables, loss = jax.jit(lambda *c: train_mf_by_adam(*c, **options))(*case)
    *expected, expected_loss = _expected(*case, **options)
    for found, exact, start in zip(tables, expected, case, strict=False):
        assert found.shape == start.shape
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-5)
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    still = tables[1][15:] == case[1][15:]  # rows without samples
    assert still.all() == (weight_decay == 0)


@pytest.mark.parametrize("still", ["lr", "item_lr"])
def test_a_rate_of_zero_holds_its_table_still(still) -> None:
    case = _case(5)
    for table in case[:2]:
        table[:, 0] = 0  # no gradient either: both moments stay 0
    options = {**OPTIONS, "weight_decay": 0.0, still: 0.0}
    *tables, loss = train_mf_by_adam(*case, **options)
    *expected, expected_loss = _expected(*case, **options)
    for found, exact in zip(tables, expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-5)
    held = 0 if still == "lr" else 1
    np.testing.assert_array_equal(tables[held], case[held])
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)


def test_clients_after_each_other_share_nothing() -> None:
    """Memory is kept from client to client: a smaller one must not see a larger one's moments."""
    options = {**OPTIONS, "weight_decay": 0.01}
    alone = train_mf_by_adam(*_case(3, items=8), **options)
    train_mf_by_adam(*_case(64, users=9, items=200, seed=5), **options)
    again = train_mf_by_adam(*_case(3, items=8), **options)
    jax.tree.map(np.testing.assert_array_equal, again, alone)


def test_clients_side_by_side_are_trained_one_by_one() -> None:
    options = {**OPTIONS, "weight_decay": 0.01}
    cases = [_case(6, seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    together = jax.jit(jax.vmap(lambda *c: train_mf_by_adam(*c, **options)))(*stacked)
    for index, case in enumerate(cases):
        alone = train_mf_by_adam(*case, **options)
        jax.tree.map(lambda x, y, i=index: np.testing.assert_array_equal(x[i], y), together, alone)


def test_nobody_trains_nothing() -> None:
    users, items, samples, orders = _case(4)
    samples = samples._replace(valid=np.zeros_like(samples.valid))
    found = train_mf_by_adam(users, items, samples, orders, **OPTIONS, weight_decay=0.01)
    np.testing.assert_array_equal(found[0], users)
    np.testing.assert_array_equal(found[1], items)
    assert float(found[2]) == 0


def test_what_is_not_finite_shows() -> None:
    users, items, samples, orders = _case(4)
    users[0] = np.nan
    found = train_mf_by_adam(users, items, samples, orders, **OPTIONS, weight_decay=0.0)
    assert np.isnan(found[0][0]).all()
    assert np.isnan(found[2])


ADAM = {"dim": 6, "optimizer": "adam", "lr": 0.02, "item_lr": 0.02, "batch_size": 16}


@pytest.mark.parametrize(
    ("name", "clients", "options"),
    [
        ("fedmf", None, {}),
        ("fedmf", 5, {"resample_negatives": False, "weight_decay": 1e-3}),
        ("mf-local", 5, {"local_epochs": 2}),
        # Few steps of the fit: later ones move what no item shows, and rounding decides how.
        ("rqfedrec", 5, {"codewords": 8, "without": "semantic", "fit_steps": 3}),
    ],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_runs_are_those_of_xla(name, clients, options, devices) -> None:
    if devices > len(jax.devices()):
        pytest.skip("JAX has one device")
    problem = small(clients=clients, split="ratio")
    method = methods.build(name, **{**ADAM, **options})
    _, expected, outcomes = run_engine(make_engine(method, problem, devices))
    with use_kernel("native"):
        _, found, others = run_engine(make_engine(method, problem, devices))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-4)

    jax.tree.map(close, found, expected)
    for outcome, other in zip(others, outcomes, strict=True):
        assert outcome.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert outcome.bytes == other.bytes
    same = jax.tree.map(np.array_equal, found, expected)
    assert not all(jax.tree.leaves(same))  # it did run: rounding differs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedmf", {"optimizer": "sgd"}),
        ("fedmf", {"keep_optimizer": True}),
        ("fedmf", {"loss": "mse"}),
        ("pfedrec", {}),
    ],
)
def test_what_it_has_no_part_in_is_xlas(name, options) -> None:
    method = methods.build(name, **{**ADAM, **options})
    _, expected, _ = run_engine(make_engine(method, small()), rounds=1)
    with use_kernel("native"):
        _, found, _ = run_engine(make_engine(method, small()), rounds=1)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
