"""States on the host and on the disk stream through the devices: the same runs as without."""

import jax
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.simulation import states
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import small


def method():
    return methods.cgfedrec(dim=4, clusters=5)


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(states, "_STREAM_BYTES", 3000)  # 4 clients of 40 items a device


def train(place, folder=None, *, devices=1, cohort=1.0, evaluate_at="download"):
    engine = Engine(
        method(),
        small(),
        client_mesh(devices),
        state=place,
        state_folder=folder,
        cohort=cohort,
        evaluate_at=evaluate_at,
    )
    state = engine.initial_state()
    for number in (1, 2, 3):
        state, outcome = engine.run_round(state, number, evaluate=True)
    return engine, state, outcome


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.parametrize(
    "options", [{}, {"devices": 2, "cohort": 11, "evaluate_at": "trained"}], ids=["all", "cohort"]
)
def test_streamed_states_are_those_on_the_device(place, options, tmp_path) -> None:
    plain, expected, outcome = train("device", **options)
    engine, state, streamed = train(place, tmp_path / "state", **options)
    assert len(engine.layout.buckets) > len(plain.layout.buckets)
    jax.tree.map(
        np.testing.assert_array_equal, engine.client_states(state), plain.client_states(expected)
    )
    assert streamed.train_loss == outcome.train_loss
    assert streamed.bytes == outcome.bytes
    for name, ranks in outcome.ranks.items():
        np.testing.assert_array_equal(streamed.ranks[name], ranks)


def test_every_client_is_in_one_bucket_and_buckets_of_a_kind_have_one_shape() -> None:
    engine, _, _ = train("host", devices=2)
    ids = np.concatenate([bucket.clients.reshape(-1) for bucket in engine.layout.buckets])
    assert sorted(ids[ids >= 0]) == list(range(engine.problem.num_clients))
    shapes = {}
    for bucket in engine.layout.buckets:
        shape = jax.tree.map(np.shape, (bucket.clients, bucket.data, bucket.held_out))
        assert shapes.setdefault(bucket.kind, shape) == shape


@pytest.mark.parametrize(("first", "second"), [("disk", "device"), ("host", "disk")])
def test_a_run_resumes_wherever_its_states_are(first, second, tmp_path) -> None:
    options = {"seed": 3, "checkpoint_every": 1, "progress": False, "report": False}
    whole = fedjax_rec.simulate(method(), small(), rounds=4, **options)
    out = tmp_path / "run"
    fedjax_rec.simulate(method(), small(), rounds=2, state=first, out=out, **options)
    resumed = fedjax_rec.simulate(
        method(), small(), rounds=4, state=second, out=out, resume=True, **options
    )
    jax.tree.map(np.testing.assert_array_equal, resumed.client_states, whole.client_states)
    assert not (out / "state").exists()


def test_disk_states_need_a_folder_with_room(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="--out"):
        fedjax_rec.simulate(method(), small(), rounds=1, state="disk", progress=False)
    file = tmp_path / "file"
    file.write_text("")
    engine = Engine(method(), small(), client_mesh(1), state="disk", state_folder=file / "state")
    with pytest.raises(InputError, match="cannot keep the clients' states"):
        engine.initial_state()
    usage = states.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(states.shutil, "disk_usage", lambda path: usage)
    engine = Engine(method(), small(), client_mesh(1), state="disk", state_folder=tmp_path / "s")
    with pytest.raises(InputError, match=r"has 100 B free"):
        engine.initial_state()


def test_the_nearest_place_with_room(monkeypatch) -> None:
    one = {"items": jax.ShapeDtypeStruct((40, 4), np.float32)}
    mesh = client_mesh(1)
    assert states.choose_place(one, 24, mesh) == "device"
    monkeypatch.setattr(states, "_host_memory", lambda: 4 * 24 * 640)
    assert states.choose_place(one, 24, mesh) == "device"
    assert states.choose_place(one, 25, mesh) == "disk"
    monkeypatch.setattr(states, "_device_memory", lambda mesh: 1000)
    monkeypatch.setattr(type(mesh.devices.flat[0]), "platform", "gpu", raising=False)
    assert states.choose_place(one, 24, mesh) == "host"
    assert states.choose_place(one, 25, mesh) == "disk"
    monkeypatch.setattr(states, "_device_memory", lambda mesh: 2 * 25 * 640)
    assert states.choose_place(one, 25, mesh) == "device"


def test_an_unknown_place_is_one_line() -> None:
    with pytest.raises(InputError, match="state='cloud'"):
        Engine(method(), small(), client_mesh(1), state="cloud")
