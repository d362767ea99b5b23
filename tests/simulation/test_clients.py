"""What each client is sent, what of it reaches the server, and who is named when it fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.methods import Info
from fedjax_rec.simulation.cohort import cohort_size, draw_cohort
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import small
from tests.simulation.toy import Config, toy

USERS = 25  # an odd number: two devices leave a row unused
TABLE = np.arange(2.0 * USERS).reshape(USERS, 2)
# Clients one by one, in groups of which the last is short, all at once, sharded, without jit.
PLANS = {
    "one by one": {"chunk": 1},
    "groups of 7": {"chunk": 7},
    "all at once": {"chunk": USERS},
    "two devices": {"devices": 2},
    "groups of 4 on two devices": {"chunk": 4, "devices": 2},
    "without jit": {"debug": True},
}


def _engine(method, devices=1, **options):
    return Engine(method, small(USERS), client_mesh(devices), **options)


@pytest.fixture(params=PLANS)
def plan(request):
    if PLANS[request.param].get("devices") == 2:
        request.getfixturevalue("two_devices")
    return PLANS[request.param]


def test_each_client_gets_its_own_row_and_the_server_its_weighted_mean(plan) -> None:
    engine = _engine(toy(), evaluate_at="trained", **plan)
    weights = engine.problem.train.lengths
    state = engine.initial_state()
    received = np.zeros_like(TABLE)
    for number in (1, 2):
        rows = TABLE + number - 1
        received += rows
        state, outcome = engine.run_round(state, number, evaluate=True)
        np.testing.assert_array_equal(engine.client_states(state), received)
        uploads = rows * np.arange(1, USERS + 1)[:, None]
        np.testing.assert_allclose(
            state.server.mean, np.average(uploads, axis=0, weights=weights), rtol=1e-6
        )
        assert outcome.train_loss == pytest.approx(rows[:, 0].mean())
        assert outcome.participants == USERS


def test_a_cohort_is_all_that_reaches_the_server(plan) -> None:
    engine = _engine(toy(), cohort=6, seed=3, **plan)
    state = engine.initial_state()
    before = engine.client_states(state)
    cohorts = []
    for number in (1, 2, 3):
        rows = TABLE + number - 1
        state, outcome = engine.run_round(state, number)
        after = engine.client_states(state)
        part = np.flatnonzero((after != before).any(axis=1))
        assert len(part) == outcome.participants == 6
        np.testing.assert_array_equal(after[part], before[part] + rows[part])
        weights = engine.problem.train.lengths[part]
        uploads = rows[part] * (part + 1.0)[:, None]
        np.testing.assert_allclose(
            state.server.mean, np.average(uploads, axis=0, weights=weights), rtol=1e-6
        )
        assert outcome.train_loss == pytest.approx(rows[part, 0].mean())
        before = after
        cohorts.append(part.tolist())
    assert len({tuple(part) for part in cohorts}) == 3  # drawn anew each round
    # And the same whatever the plan: the draw knows nothing of it.
    assert cohorts[0] == _cohort_of_seed_3()


def _cohort_of_seed_3():
    engine = _engine(toy(), cohort=6, seed=3, chunk=1)
    state, _ = engine.run_round(engine.initial_state(), 1)
    return np.flatnonzero(engine.client_states(state).any(axis=1)).tolist()


def test_every_client_round_and_purpose_has_its_own_random_numbers() -> None:
    def receive(key, client, download, data):
        return client.at[0].set(jax.random.uniform(key))

    def local_update(key, client, download, data):
        trained = client.at[1].set(jax.random.uniform(key))
        return trained, jnp.zeros(()), Info(jnp.float32(0))

    def noise(key, upload):
        return jax.random.uniform(key)

    def drawn(seed, chunk):
        """All numbers of two rounds; what went up is known by its sum alone."""
        method = toy()._replace(
            receive=receive,
            local_update=local_update,
            uplink=toy().uplink._replace(apply=noise),
            weight=lambda data: jnp.float32(1),
            server_step=lambda key, server, reduced: server._replace(
                mean=jnp.stack([reduced.total, jax.random.uniform(key)])
            ),
        )
        engine = _engine(method, seed=seed, chunk=chunk)
        state, numbers = engine.initial_state(), []
        for number in (1, 2):
            state, _ = engine.run_round(state, number)
            numbers += [engine.client_states(state).reshape(-1), np.asarray(state.server.mean)]
        return np.concatenate(numbers)

    numbers = drawn(0, 1)
    assert len(numbers) == 2 * (2 * USERS + 2)
    assert len(np.unique(numbers)) == len(numbers)
    # Of the uploads only the sums are seen: of 25 draws they lie near 12.5, of one draw 25 times
    # they would lie anywhere.
    for total in numbers[[2 * USERS, -2]]:
        assert 0.25 < total / USERS < 0.75
    np.testing.assert_allclose(drawn(0, 7), numbers, rtol=1e-6)
    assert not np.isin(drawn(1, 1), numbers).any()


def test_failure_names_round_and_client(plan) -> None:
    engine = _engine(toy(Config(fails=(2, 13))), **plan)
    state, _ = engine.run_round(engine.initial_state(), 1)
    with pytest.raises(TrainingError, match=r"diverged in round 2: client 13 ") as error:
        engine.run_round(state, 2)
    assert "\n" not in str(error.value)


def test_an_upload_that_is_no_number_stops_too() -> None:
    engine = _engine(toy(Config(upload_fails=(2, 13))), chunk=7)
    state, _ = engine.run_round(engine.initial_state(), 1)
    with pytest.raises(TrainingError, match=r"diverged in round 2: "):
        engine.run_round(state, 2)


def test_failure_of_a_client_that_sits_out_is_nobody_s() -> None:
    outsider = next(k for k in range(USERS) if k not in _cohort_of_seed_3())
    engine = _engine(toy(Config(fails=(1, outsider))), cohort=6, seed=3, chunk=7)
    state, outcome = engine.run_round(engine.initial_state(), 1)
    assert np.isfinite(outcome.train_loss)
    assert np.isfinite(state.server.mean).all()


def test_an_exception_in_debug_names_the_client() -> None:
    def broken(key, client, download, data):
        # The engine looks at shapes first, with abstract values; then the clients run.
        if not isinstance(data.client, jax.core.Tracer) and int(data.client) == 4:
            raise ZeroDivisionError("a mistake of the method's own")
        return toy().local_update(key, client, download, data)

    engine = _engine(toy()._replace(local_update=broken), debug=True)
    with pytest.raises(ZeroDivisionError) as error:
        engine.run_round(engine.initial_state(), 1)
    assert any("client 4" in note for note in error.value.__notes__)


def test_a_constant_score_is_the_worst_rank(plan) -> None:
    engine = _engine(toy(), **plan)
    problem = engine.problem
    ranks = engine.evaluate(engine.initial_state(), 0)
    assert problem.evaluation_negatives is not None
    for split, candidates in zip(("validation", "test"), problem.evaluation_negatives, strict=True):
        found = (candidates >= 0).sum(axis=1)
        np.testing.assert_array_equal(ranks[f"{split}_sampled"][:, 0], found)
    unseen = problem.num_items - problem.train.lengths
    np.testing.assert_array_equal(ranks["validation_full"][:, 0], unseen - 1)
    np.testing.assert_array_equal(ranks["test_full"][:, 0], unseen - 2)


@pytest.mark.parametrize(
    ("cohort", "size"), [(1.0, 25), (1, 1), (25, 25), (0.5, 12), (0.03, 1), (0.3, 8)]
)
def test_cohort_sizes(cohort, size) -> None:
    assert cohort_size(cohort, USERS) == size


@pytest.mark.parametrize("cohort", [0, 0.0, -1, 26, 1.5, 0.01, float("nan")])
def test_cohorts_that_cannot_be(cohort) -> None:
    with pytest.raises(InputError, match=f"cohort={cohort}") as error:
        cohort_size(cohort, USERS)
    assert "\n" not in str(error.value)


def test_a_cohort_is_drawn_anew_each_round() -> None:
    drawn = [draw_cohort(8, USERS, seed=1, round_=round_) for round_ in range(1, 200)]
    for part in drawn:
        assert (np.diff(part) > 0).all()  # ascending, nobody twice
    times = np.bincount(np.concatenate(drawn), minlength=USERS)
    assert times.min() > 30  # of 64 expected, ± 7
    again = draw_cohort(8, USERS, seed=1, round_=1)
    np.testing.assert_array_equal(again, drawn[0])
    assert (draw_cohort(8, USERS, seed=2, round_=1) != again).any()
    np.testing.assert_array_equal(draw_cohort(USERS, USERS, seed=1, round_=1), np.arange(USERS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk=0 must be 'auto' or at least 1"),
        ({"debug": True, "devices": 2}, "debug runs client by client on one device"),
        ({"devices": 0}, "devices=0 must be at least 1"),
        ({"devices": 99}, "devices=99 but JAX has"),
    ],
)
def test_plans_that_cannot_be(options, message, two_devices) -> None:
    with pytest.raises(InputError, match=message) as error:
        _engine(toy(), **options)
    assert "\n" not in str(error.value)
