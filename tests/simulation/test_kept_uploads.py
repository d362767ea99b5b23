"""A server that sees uploads one by one and answers each client, on every plan and place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.methods import ByClient, Method, Uploads
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import small
from tests.simulation.toy import toy

USERS = 25  # an odd number: two devices leave a row unused
PLANS: dict[str, dict[str, Any]] = {
    "one by one": {"chunk": 1},
    "groups of 7": {"chunk": 7},
    "groups of 4 on two devices": {"chunk": 4, "devices": 2},
    "states on the host, two devices": {"state": "host", "devices": 2},
    "without jit": {"debug": True},
}


def answering() -> Method:
    """Who took part is sent its own upload less the participants' plain mean, plus 10 · round.

    The 10 · round is the host's, and added by ``server_finish``. Others keep what they had.
    """
    base = toy()

    def server_step(key: Any, server: Any, reduced: Any, uploads: Uploads) -> Any:
        took_part = (uploads.client >= 0)[:, None]
        mean = jnp.sum(jnp.where(took_part, uploads.values, 0), axis=0) / jnp.sum(took_part)
        answer = jnp.where(took_part, uploads.values - mean, server.table.rows)
        return server._replace(table=ByClient(answer))

    def between_rounds(rng: Any, round_: int, server: Any) -> Any:
        assert server.table == ByClient(())
        return server._replace(round=np.int32(10 * round_))

    def server_finish(key: Any, server: Any, uploads: Uploads) -> Any:
        took_part = (uploads.client >= 0)[:, None]
        return server._replace(table=ByClient(server.table.rows + server.round * took_part))

    return base._replace(
        keep_uploads=True,
        server_step=server_step,
        between_rounds=between_rounds,
        server_finish=server_finish,
    )


@pytest.fixture(params=PLANS)
def plan(request):
    if PLANS[request.param].get("devices") == 2:
        request.getfixturevalue("two_devices")
    return PLANS[request.param]


@pytest.mark.parametrize("cohort", [1.0, 6])
def test_every_client_gets_the_answer_to_its_own_upload(plan, cohort) -> None:
    options = {name: value for name, value in plan.items() if name != "devices"}
    devices = plan.get("devices", 1)
    engine = Engine(
        answering(), small(USERS), client_mesh(devices), cohort=cohort, seed=3, **options
    )
    state = engine.initial_state()
    table = np.arange(2.0 * USERS).reshape(USERS, 2)
    np.testing.assert_array_equal(engine.server_state(state).table.rows, table)
    before = engine.client_states(state).copy()
    for number in (1, 2):
        state, _ = engine.run_round(state, number)
        after = engine.client_states(state).copy()
        part = np.flatnonzero((after != before).any(axis=1))
        uploads = table[part] * (part + 1.0)[:, None]
        table[part] = uploads - uploads.mean(axis=0) + 10 * number
        before = after
        np.testing.assert_allclose(
            engine.server_state(state).table.rows, table, rtol=1e-5, atol=1e-3
        )


def test_what_is_by_client_goes_on_with_other_devices(two_devices) -> None:
    engines = [Engine(answering(), small(USERS), client_mesh(n)) for n in (1, 2)]
    state, _ = engines[0].run_round(engines[0].initial_state(), 1)
    saved = engines[0].server_state(state), engines[0].client_states(state)
    assert jax.tree.map(jnp.shape, saved[0]) == jax.tree.map(
        lambda x: x.shape, engines[0].server_shapes(state)
    )
    last = []
    for engine in engines:
        restored, _ = engine.run_round(engine.restore(*saved), 2)
        last.append(engine.server_state(restored).table.rows)
    np.testing.assert_allclose(last[0], last[1], rtol=1e-6)
