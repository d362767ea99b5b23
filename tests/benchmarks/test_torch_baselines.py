"""The PyTorch loops take the package's steps: a round of each ends where the engine's does."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import draw_round
from fedjax_rec.seeding import Purpose
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.methods import reference
from tests.problems import client_data, small

from .problems import tiny_problem

torch = pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
import torch_baselines  # noqa: E402

ITEMS = 40
SIZES = {"dim": 4, "negatives": 2, "batch_size": 8}
OPTIONS = {
    "fedncf": {"layers": (6, 4), "lr": 0.02, "item_lr": 0.05, "init_std": 0.5},
    "fedrap": {"lr": 0.3, "item_lr": 3.0, "weight_decay": 0.02, "local_epochs": 5}
    | {"step_decay": 0.9, "round_decay": 0.8, "tolerance": 0.1},
    # Rates at which users differ enough that no similarity is as good as at the threshold.
    "gpfedrec": {"layers": (6, 4), "lr": 0.3, "item_lr": 2000.0, "user_lr_scale": 20.0}
    | {"local_epochs": 2, "message_layers": 2, "target_weight": 0.02},
}
# The batches are the same; the order in which float32 is summed is not.
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


class Rounds:
    """The engine's third round: what it starts from and what it leaves, as states of the loop."""

    def __init__(self, name: str) -> None:
        self.loop = torch_baselines.LOOPS[name]
        self.problem = small()
        method = getattr(methods, name)(**SIZES, **OPTIONS[name])
        self.config = method.config
        engine = Engine(method, self.problem, client_mesh(None), seed=0)
        state = engine.initial_state()
        for number in (1, 2):
            state, _ = engine.run_round(state, number)
        self.start = self._state(engine, state, passed=2)
        state, self.outcome = engine.run_round(state, 3)
        self.end = self._state(engine, state, passed=3)

    def _state(self, engine, state, passed):
        return self.loop.state(engine.server_state(state), engine.client_states(state), passed)

    def batches(self, client: int):
        """Those that the engine gives a client in this round."""
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 3)
        key = jax.random.fold_in(jax.random.fold_in(key, int(Purpose.LOCAL_UPDATE)), client)
        data = client_data(self.problem, client)
        data = data._replace(longest=data.positives)
        samples = draw_round(key, data, ITEMS, self.config.negatives)
        once = replace(self.config, local_epochs=1)

        def epoch(number: int):
            # FedRAP trains epoch by epoch, each with a key of its own.
            if self.loop is torch_baselines.LOOPS["fedrap"]:
                own = jax.random.fold_in(key, 1 + number)
                found = reference.batches_of(own, data, ITEMS, once, samples)
            else:
                found = reference.batches_of(key, data, ITEMS, self.config, samples)
                count = len(found) // self.config.local_epochs
                found = found[number * count : (number + 1) * count]
            for batch in found:
                yield (
                    torch.from_numpy(batch.items.astype(np.int64)),
                    torch.from_numpy(batch.labels.astype(np.float32)),
                )

        return epoch


@cache
def rounds(name: str) -> Rounds:
    return Rounds(name)


def close(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], **CLOSE, err_msg=name)


def differ(one, other):
    """Every entry, by far more than the tolerance: a test that moves nothing shows nothing."""
    for name in one:
        moved = (one[name] - other[name]).abs().max()
        assert moved > 10 * CLOSE["rtol"] * other[name].abs().max(), name


@pytest.mark.parametrize("name", torch_baselines.LOOPS)
def test_one_client_ends_in_the_same_parameters(name):
    this = rounds(name)
    client = 3
    model = this.loop.model(this.config, ITEMS)
    model.load_state_dict({**this.start.own[client], **this.start.shared})
    this.loop.train(model, this.batches(client), this.config, this.start, client)
    found = model.state_dict()
    kept = {entry: found[entry] for entry in this.start.own[client]}
    close(kept, this.end.own[client])
    differ(kept, this.start.own[client])


@pytest.mark.parametrize("name", torch_baselines.LOOPS)
def test_a_round_of_all_clients_ends_in_the_same_state(name, monkeypatch):
    this = rounds(name)
    everyone = range(this.problem.num_clients)
    given = map(this.batches, everyone)
    monkeypatch.setattr(torch_baselines, "_batches", lambda *_: next(given))
    found = torch_baselines.run_round(
        this.loop, this.problem, this.start, this.config, clients=everyone, seed=0
    )
    close(found.state.shared, this.end.shared)
    differ(found.state.shared, this.start.shared)
    for client in everyone:
        close(found.state.own[client], this.end.own[client])
    if name == "gpfedrec":
        np.testing.assert_allclose(found.state.targets, this.end.targets, **CLOSE)
        assert np.ptp(found.state.targets.numpy(), axis=0).max() > 1e-3  # there is a graph
    assert found.loss == pytest.approx(this.outcome.train_loss, rel=1e-4)
    assert found.state.passed == this.end.passed
    assert min(found.training_seconds, found.server_seconds) > 0


def test_fedrap_stops_some_clients_early():
    this = rounds("fedrap")
    steps = []
    for client in range(this.problem.num_clients):
        model = this.loop.model(this.config, ITEMS)
        model.load_state_dict({**this.start.own[client], **this.start.shared})
        batches = this.batches(client)
        trained = this.loop.train(model, batches, this.config, this.start, client)
        steps.append(trained.steps / len(list(batches(0))))
    assert len(set(steps)) > 1
    assert max(steps) <= this.config.local_epochs


@pytest.mark.parametrize("form", ["release", "lean"])
def test_both_forms_train_on_positives_and_unseen_items(form, monkeypatch):
    this = rounds("fedncf")
    seen = []

    def train(model, batches, config, state, client):
        for epoch in (0, 1):
            parts = [torch.cat(part) for part in zip(*batches(epoch), strict=True)]
            seen.append((client, *parts, [len(part[0]) for part in batches(epoch)]))
        return torch_baselines.Trained(0.0, 1)

    torch_baselines.run_round(
        this.loop._replace(train=train),
        this.problem,
        this.start,
        this.config,
        clients=[2, 5],
        seed=0,
        form=form,
    )
    assert [client for client, *_ in seen] == [2, 2, 5, 5]
    for client, items, labels, sizes in seen:
        positives = this.problem.train[client]
        assert set(items[labels == 1].tolist()) == set(positives.tolist())
        assert not set(items[labels == 0].tolist()) & set(positives.tolist())
        assert len(items) == len(positives) * (1 + this.config.negatives)
        assert max(sizes) <= this.config.batch_size
    (_, first, *_), (_, second, *_) = seen[:2]
    assert sorted(first.tolist()) == sorted(second.tolist())  # the same samples in both epochs
    assert first.tolist() != second.tolist()  # in another order


def test_those_who_are_not_trained_upload_their_targets():
    this = rounds("gpfedrec")
    still = replace(this.config, lr=0.0, item_lr=0.0)
    # Client 0 starts from its own target and stays there: as if nobody had been trained.
    start = this.start._replace(shared={"items.weight": this.start.targets[0]})
    found = torch_baselines.run_round(this.loop, this.problem, start, still, clients=[0], seed=0)
    expected, targets = this.loop.finish({}, still, this.start)
    np.testing.assert_allclose(found.state.targets, targets, **CLOSE)
    close(found.state.shared, expected)


def test_several_users_a_client_are_refused():
    this = rounds("fedrap")
    problem = tiny_problem([[0], [1]], num_items=6, users_per_client=2)
    with pytest.raises(ValueError, match="one user a client"):
        torch_baselines.run_round(this.loop, problem, this.start, this.config, clients=[0], seed=0)


@pytest.mark.parametrize(
    ("name", "change"),
    [("fedrap", {"penalty": "l2"}), ("fedrap", {"ramp": "sin"}), ("gpfedrec", {"neighbours": 3})],
)
def test_options_that_a_loop_does_not_have_are_refused(name, change):
    this = rounds(name)
    with pytest.raises(ValueError, match="this loop"):
        torch_baselines.run_round(
            this.loop,
            this.problem,
            this.start,
            replace(this.config, **change),
            clients=[0],
            seed=0,
        )
