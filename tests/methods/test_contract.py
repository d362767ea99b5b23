"""The contract that every registered method keeps: a new one is tested by being registered."""

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.simulation import clients
from fedjax_rec.simulation.engine import Engine, Outcome
from tests.problems import client_data, small, suited
from tests.simulation.runs import USERS, assert_same_run, make_engine, run_engine

# Those of its options that a method has, so that it trains in milliseconds.
OPTIONS = {
    **{"dim": 4, "batch_size": 16, "negatives": 2, "clusters": 5, "item_lr_scale": 0.05},
    **{"codewords": 6, "levels": 2, "recode_every": 2, "warmup": 4, "fit_steps": 3},
    "align_steps": 5,  # a hundred multiply the last bits of a sum by more than tests allow
    "layers": (6, 4),
    "granularities": (2, 5),
}
OWN = {
    "fedrap": {"item_lr": 5.0, "local_epochs": 3},  # its rates are for batches of thousands
    "gfmfr": {
        **{"modality": ("text=text",), "fusion_hidden": 8, "fusion_epochs": 3, "local_epochs": 2},
        # With k-means: what differs in the last bits still is the same group.
        **{"item_lr": 1.0, "fusion_grouping": "kmeans"},
    },
    "mf-central": {"batch_size": 64},  # all clients' batches are one's
    "ncf-central": {"batch_size": 64},
}
TRACED = ("receive", "local_update", "retain", "reduce", "server_step", "scores")
KEEPS_TO_ITSELF = ("local", "mf-local", "mf-central", "ncf-central")


def tiny(name: str, **options: Any) -> Method:
    """A registered method at toy size."""
    known = {field.name for field in dataclasses.fields(methods.REGISTRY[name].config)}
    fitting = {key: value for key, value in OPTIONS.items() if key in known}
    return methods.build(name, **{**fitting, **OWN.get(name, {}), **options})


class Trained(NamedTuple):
    """Three rounds of a method, and how they were reached."""

    engine: Engine
    clients: list[Any]  # by client id, before the first round and after each
    servers: list[Any]
    outcomes: list[Outcome]
    downloads: list[dict[str, np.ndarray]]  # ranks at download after each round
    traces: list[Counter]  # calls of the method's functions, so far, after each round


@pytest.fixture(scope="module", params=methods.REGISTRY)
def trained(request) -> Trained:
    calls: Counter = Counter()
    method = tiny(request.param)
    counted = {name: _counted(calls, name, getattr(method, name)) for name in TRACED}
    engine = _in_groups(method._replace(**counted))
    state = engine.initial_state()
    run = Trained(
        engine, [engine.client_states(state)], [_host(engine.server_state(state))], [], [], []
    )
    for number in (1, 2, 3):
        state, outcome = engine.run_round(state, number, evaluate=True)
        run.outcomes.append(outcome)
        run.downloads.append(engine.evaluate(state, number))
        run.clients.append(engine.client_states(state))
        run.servers.append(_host(engine.server_state(state)))
        run.traces.append(Counter(calls))
    return run


def _in_groups(method: Method) -> Engine:
    """Groups of 7 of the 25 clients, the last one short: side by side, as on an accelerator."""
    return make_engine(method, small(USERS), chunk=7)


def _counted(calls, name, function):
    def wrapped(*args):
        calls[name] += 1
        return function(*args)

    return wrapped


def _host(tree):
    return jax.tree.map(lambda x: np.array(x), tree)


def test_states_keep_their_shapes(trained: Trained) -> None:
    count = trained.engine.problem.num_clients
    for states in (trained.clients, trained.servers):
        first = jax.tree.map(lambda x: (x.shape, x.dtype), states[0])
        for later in states[1:]:
            assert jax.tree.map(lambda x: (x.shape, x.dtype), later) == first
    assert all(x.shape[0] == count for x in jax.tree.leaves(trained.clients))


def test_everything_is_finite(trained: Trained) -> None:
    for leaf in jax.tree.leaves((trained.clients, trained.servers)):
        assert np.isfinite(leaf).all()
    assert all(np.isfinite(outcome.train_loss) for outcome in trained.outcomes)


def test_it_learns_something(trained: Trained) -> None:
    """Some state moves from round to round: a method that trains nothing passes all else."""
    before = jax.tree.leaves((trained.clients[0], trained.servers[0]))
    after = jax.tree.leaves((trained.clients[1], trained.servers[1]))
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_later_rounds_trace_nothing(trained: Trained) -> None:
    assert all(trained.traces[0][name] >= 1 for name in TRACED)
    assert trained.traces[1] == trained.traces[2] == trained.traces[0]


def test_every_held_out_item_is_ranked(trained: Trained) -> None:
    problem = trained.engine.problem
    unseen = problem.num_items - problem.train.lengths
    for ranks in (*trained.downloads, *(outcome.ranks for outcome in trained.outcomes)):
        assert set(ranks) == {
            f"{split}_{kind}" for split in ("validation", "test") for kind in ("sampled", "full")
        }
        for values in ranks.values():
            assert values.shape == (problem.num_users, 1)
            assert (values >= 0).all()
            assert (values[:, 0] < unseen).all()


def test_traffic_is_what_the_method_shares(trained: Trained) -> None:
    sent = [outcome.bytes for outcome in trained.outcomes]
    if trained.engine.method.name in KEEPS_TO_ITSELF:
        assert all(bytes_.up_total == bytes_.down_total == 0 for bytes_ in sent)
    else:
        assert all(bytes_.up_total > 0 for bytes_ in sent)
        assert sum(bytes_.down_total for bytes_ in sent) > 0


def test_resume_is_bitwise(trained: Trained) -> None:
    """Another engine that takes up what was saved after round 2 ends where the first did."""
    engine = _in_groups(tiny(trained.engine.method.name))
    state = engine.restore(trained.servers[2], trained.clients[2])
    state, outcome = engine.run_round(state, 3, evaluate=True)
    same = np.testing.assert_array_equal
    jax.tree.map(same, engine.client_states(state), trained.clients[3])
    jax.tree.map(same, _host(engine.server_state(state)), trained.servers[3])
    jax.tree.map(same, outcome.ranks, trained.outcomes[2].ranks)
    assert outcome.train_loss == trained.outcomes[2].train_loss
    assert outcome.bytes == trained.outcomes[2].bytes


def test_one_by_one_on_two_devices_is_in_groups_on_one(trained: Trained, two_devices) -> None:
    """The plan changes nothing; both at once, for what differs in one of them differs here."""
    method = tiny(trained.engine.method.name)
    alone = run_engine(make_engine(method, small(USERS), two_devices, chunk=1))
    after_two = trained.clients[2], trained.servers[2]
    assert_same_run(alone, (None, after_two, trained.outcomes[:2]))


def test_item_view_is_for_people(trained: Trained) -> None:
    view = trained.engine.method.item_view(trained.servers[-1])
    for array in view.values():
        assert isinstance(array, np.ndarray)
        assert len(array) == trained.engine.problem.num_items


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_padding_is_safe(name) -> None:
    """Longer company changes no bit; a client without data keeps its state and its loss is 0."""
    method = tiny(name)
    problem = suited(method, small(clients=5))
    server = method.init(jax.random.key(0), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(1), server, users)
    download = clients.own_broadcast(method.broadcast(server), 0)
    data = client_data(problem, problem.num_clients - 1)
    data = data._replace(longest=data.positives)

    @jax.jit
    def round_of(client, download: Broadcast, data):
        received = method.receive(jax.random.key(2), client, download, data)
        return received, method.local_update(jax.random.key(3), received, download, data)

    same = np.testing.assert_array_equal
    alone = round_of(client, download, data)
    among = round_of(client, download, data._replace(longest=data.positives + 20))
    jax.tree.map(same, alone, among)

    nobody = data._replace(positives=jnp.int32(0), longest=jnp.int32(20))
    received, (after, upload, info) = round_of(client, download, nobody)
    jax.tree.map(same, method.retain(after), method.retain(received))
    assert float(info.loss) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(upload))
    scores = jax.jit(jax.vmap(method.scores, (None, None, 0)))
    of_users = scores(after, download.shared, jnp.arange(users))
    assert of_users.shape == (users, problem.num_items)
    assert np.isfinite(of_users).all()
