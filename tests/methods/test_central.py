"""Clients that train alone: the local control, and the centre that holds everybody's data."""

from functools import partial

import jax
import numpy as np
import pandas as pd
import pytest

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.data import centralize
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.methods import reference
from tests.methods.test_fedncf import dense_training
from tests.problems import client_data, small
from tests.simulation.runs import assert_bitwise, make_engine, run_engine

KEY = jax.random.key(11)
ITEMS = 40
MF = {"dim": 4, "lr": 0.3, "item_lr": 0.5, "batch_size": 16, "negatives": 2, "init_std": 0.5}
NCF = {"dim": 3, "layers": (6, 4), "lr": 0.02, "item_lr": 0.05, "batch_size": 16}
NCF |= {"negatives": 2, "init_std": 0.5}


def start(name: str, **options):
    """The method, its one client, and that client's data: everybody's."""
    problem = centralize(small())
    method = methods.build(name, **options)
    server = method.init(jax.random.key(1), problem)
    client = method.init_client(jax.random.key(2), server, problem.num_users)
    data = client_data(problem, 0)
    return method, client, data._replace(longest=data.positives)


def test_central_mf_is_sgd_on_all_users() -> None:
    method, client, data = start("mf-central", optimizer="sgd", keep_optimizer=False, **MF)
    trained, upload, info = jax.jit(method.local_update)(KEY, client, Broadcast(()), data)
    batches = reference.batches_of(KEY, data, ITEMS, method.config)
    assert {int(u) for batch in batches for u in batch.users} == set(range(24))
    users, _, items, loss = reference.train(
        client.user["embedding"], None, client.items, batches, lr=0.3, item_lr=0.5, user_first=False
    )
    np.testing.assert_allclose(trained.user["embedding"], users, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.items, items, rtol=1e-4, atol=1e-5)
    assert float(info.loss) == pytest.approx(loss, rel=1e-5)
    assert upload == ()


def test_central_ncf_is_adam_on_all_users() -> None:
    method, client, data = start("ncf-central", **NCF)
    trained, _, info = jax.jit(method.local_update)(KEY, client, Broadcast(()), data)
    batches = reference.batches_of(KEY, data, ITEMS, method.config)
    network = {k: v for k, v in client.user.items() if not k.startswith("user")}
    user = {k: v for k, v in client.user.items() if k.startswith("user")}
    user, network, items, loss = dense_training(method.config, user, network, client.items, batches)
    close = partial(np.testing.assert_allclose, rtol=2e-3, atol=5e-4)
    jax.tree.map(close, trained.user, {**user, **network})
    close(trained.items, items)
    assert float(info.loss) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("name", ["mf-central", "ncf-central"])
def test_adam_goes_on_where_it_was(name) -> None:
    method, client, data = start(name, **(MF if name == "mf-central" else NCF))
    steps = [int(client.memory.optimizers.items.steps)]
    for _ in range(2):
        client, _, _ = jax.jit(method.local_update)(KEY, client, Broadcast(()), data)
        steps.append(int(client.memory.optimizers.items.steps))
    batches = -(-3 * int(data.positives) // 16)
    assert steps == [0, batches, 2 * batches]


@pytest.mark.parametrize("name", ["mf-central", "ncf-central"])
def test_simulate_puts_all_users_in_one_place(name) -> None:
    """However they are grouped, the figures are the same, nothing travels, and a note says so."""
    runs = [
        fedjax_rec.simulate(
            methods.build(name, dim=4, batch_size=64), small(clients=c), rounds=2, progress=False
        )
        for c in (None, 5)
    ]
    for run in runs:
        assert run.problem.num_clients == 1
        assert run.problem.notes[-1] == "centralized: one client holds the data of all 24 users"
    first, second = (
        run.history[[name for name in run.history if not name.endswith("seconds")]] for run in runs
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert (first[["uplink_bytes", "downlink_bytes"]] == 0).all(axis=None)


@pytest.mark.parametrize("name", ["mf-central", "ncf-central"])
def test_a_centre_refuses_a_federation(name) -> None:
    with pytest.raises(InputError, match=r"all data in one place, but 24 clients hold") as error:
        Engine(methods.build(name), small(), client_mesh(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cohort", [0.1, 0.9, 5, 0])
def test_a_centre_has_no_cohort(cohort) -> None:
    with pytest.raises(InputError, match=f"cohort={cohort}: mf-central is .* leave") as error:
        fedjax_rec.simulate(methods.mf_central(), small(), cohort=cohort, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cohort", [1, 1.0])
def test_all_of_one_client_is_a_cohort(cohort) -> None:
    run = fedjax_rec.simulate(
        methods.mf_central(dim=2), small(), rounds=1, cohort=cohort, progress=False
    )
    assert run.history["clients"].eq(1).all()


def test_local_mf_is_fedcia_without_alignment() -> None:
    """What the benchmarks' tables have trained as local MF so far, to the last bit."""
    options = {**MF, "optimizer": "adam", "lr": 0.01, "item_lr": 0.01, "weight_decay": 0.0}
    control = {"align_steps": 0, "laplace": 0.0, "keep_optimizer": False}
    problem = small(clients=5)
    _, (ours, _), outcomes = run_engine(make_engine(methods.mf_local(**options), problem))
    fedcia = methods.fedcia(resample_negatives=True, **control, **options)
    _, (theirs, _), expected = run_engine(make_engine(fedcia, problem))
    assert_bitwise(tuple(ours), tuple(theirs))
    for outcome, other in zip(outcomes, expected, strict=True):
        assert outcome.train_loss == other.train_loss
        assert_bitwise(outcome.ranks, other.ranks)
        assert outcome.bytes == other.bytes
        assert outcome.bytes.up_total == outcome.bytes.down_total == 0


def test_local_clients_learn_nothing_from_one_another() -> None:
    """The first clients of a federation end as they do without the others."""
    method = methods.mf_local(**MF)
    few, many = (
        run_engine(make_engine(method, small(client_limit=limit)))[1][0] for limit in (6, 24)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:6], rtol=1e-5, atol=1e-6), few, many)
