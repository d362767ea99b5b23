"""Other simulators do the same work, or their row says why there is no figure."""

import dataclasses
import json
import sys
from pathlib import Path

import harness
import numpy as np
import peer_process
import peer_venvs
import peers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_workers import work as shared

SMALL = {"clients": (20,), "items": 60, "ml_100k": False, "rounds": 1, "dim": 4}
VENVS = Path(__file__).parents[2] / "runs" / "peers" / "venvs"


def small_work(held: list[list[int]], num_items: int, **changes) -> shared.Work:
    """A work of clients that hold the given items."""
    rng = np.random.default_rng(0)
    work = shared.Work(
        starts=np.cumsum([0, *map(len, held)]),
        positives=np.array([item for items in held for item in items], np.int32),
        items=rng.standard_normal((num_items, 3), np.float32),
        head=rng.standard_normal(4, np.float32),
        batch_size=4,
        negatives=2,
        local_epochs=2,
        lr=0.1,
        item_lr=0.5,
        warmup=1,
        rounds=2,
        seed=5,
    )
    return dataclasses.replace(work, **changes)


# The work -------------------------------------------------------------------------------------


def test_a_work_is_read_as_it_was_written(tmp_path):
    work = small_work([[0, 3], [1]], 5)
    shared.save(work, tmp_path / "work.npz")
    found = shared.load(tmp_path / "work.npz")
    for field in dataclasses.fields(shared.Work):
        before, after = getattr(work, field.name), getattr(found, field.name)
        assert type(after) is type(before)
        np.testing.assert_array_equal(after, before)
        assert getattr(after, "dtype", None) == getattr(before, "dtype", None)


@settings(deadline=None, max_examples=60)
@given(
    held=st.sets(st.integers(0, 11), min_size=1, max_size=11),
    negatives=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_draw_has_every_positive_once_and_negatives_from_outside(held, negatives, seed):
    work = small_work([sorted(held)], 12, negatives=negatives)
    items, labels = shared.draw(work, 0, np.random.default_rng(seed))
    assert sorted(items[labels == 1]) == sorted(held)
    assert len(items) == len(held) * (1 + negatives) == work.samples_of(0)
    assert not held & set(items[labels == 0].tolist())
    assert (items.dtype, labels.dtype) == (np.int32, np.float32)


def test_negatives_are_uniform_over_the_items_not_held():
    work = small_work([[0, 2, 5]], 7, negatives=8_000)
    items, labels = shared.draw(work, 0, np.random.default_rng(0))
    drawn = np.bincount(items[labels == 0], minlength=7)
    expected = np.array([0, 6_000, 0, 6_000, 6_000, 0, 6_000])
    np.testing.assert_allclose(drawn, expected, atol=400)  # six standard deviations


def test_batches_cover_every_epoch():
    work = small_work([[0, 3, 4]], 9)
    batches = shared.batches(work, 0, np.random.default_rng(1))
    assert [len(items) for items, _ in batches] == [4, 4, 1] * 2
    first = np.concatenate([items for items, _ in batches[:3]])
    second = np.concatenate([items for items, _ in batches[3:]])
    assert sorted(first) == sorted(second)
    assert first.tolist() != second.tolist()


def test_mean_loss_is_the_mean_over_clients_of_their_own_heads():
    # All items but one are held, so that one is every negative.
    work = small_work([[0, 1], [0, 2]], 3)
    heads = np.array([[1, 0, -1, 0.5], [0.3, 2, 0, -0.2]])

    def loss(client, positives, negative):
        logits = work.items.astype(float) @ heads[client, :3] + heads[client, 3]
        probability = 1 / (1 + np.exp(-logits))
        own = -np.log(probability[positives]).sum() - 4 * np.log(1 - probability[negative])
        return own / 6

    expected = (loss(0, [0, 1], 2) + loss(1, [0, 2], 1)) / 2
    assert shared.mean_loss(work, work.items, heads) == pytest.approx(expected)


def test_a_report_is_one_line_that_can_be_parsed_and_a_file(tmp_path, capsys):
    outcome = shared.Outcome([0.5, 0.25], [0.1, 0.05], 7, np.ones((2, 3)), np.zeros((4, 4)))
    print("a simulator's own words", end="")
    shared.report(outcome, tmp_path / "trained.npz")
    measured = peer_process.parse(capsys.readouterr().out)
    assert measured == peer_process.Measured((0.5, 0.25), (0.1, 0.05), 7)
    with np.load(tmp_path / "trained.npz", allow_pickle=False) as left:
        np.testing.assert_array_equal(left["items"], outcome.items)
        np.testing.assert_array_equal(left["heads"], outcome.heads)


def test_the_torch_step_is_a_head_step_then_an_item_step_on_a_fresh_pass():
    torch = pytest.importorskip("torch", reason="the loops need PyTorch: .[benchmark]")
    from peer_workers.torch_rows import step

    rng = np.random.default_rng(3)
    items, head = rng.standard_normal((5, 3)), rng.standard_normal(4)
    index, labels = np.array([1, 4, 1]), np.array([1.0, 0.0, 0.0])

    def error(table, head):
        return (1 / (1 + np.exp(-(table[index] @ head[:3] + head[3]))) - labels) / 3

    gradient = error(items, head)
    new_head = head - 0.1 * np.append(gradient @ items[index], gradient.sum())
    new_items = items.copy()
    np.add.at(new_items, index, -0.7 * np.outer(error(items, new_head), new_head[:3]))

    table, own = torch.tensor(items), torch.tensor(head)
    step(table, own, torch.tensor(index), torch.tensor(labels), 0.1, 0.7)
    np.testing.assert_allclose(own, new_head)
    np.testing.assert_allclose(table, new_items)


# Workers --------------------------------------------------------------------------------------

GOOD = {"round_seconds": [1.5], "sampling_seconds": [], "peak_rss_bytes": 10}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Traceback", "ValueError: no"], "0 lines start with 'peer: ', not one: ValueError: no"),
        (["peer: " + json.dumps(GOOD)] * 2, "2 lines"),
        (["peer: {"], "cannot read"),
        (["peer: []"], "cannot read"),
        (["peer: {}"], "cannot read '{}': 'round_seconds'"),
        (["peer: " + json.dumps(GOOD | {"round_seconds": []})], "are no measurement"),
        (["peer: " + json.dumps(GOOD | {"round_seconds": [float("nan")]})], "are no measurement"),
        (["peer: " + json.dumps(GOOD | {"sampling_seconds": [1, 2]})], "2 sampling_seconds"),
    ],
)
def test_what_is_no_measurement_is_refused(lines, message):
    with pytest.raises(peer_process.WorkerError) as caught:
        peer_process.parse("\n".join(lines))
    assert message in str(caught.value)


def run_python(program: str, folder: Path, seconds: float = 60, memory: float = 2e9):
    command = [sys.executable, "-c", program]
    return peer_process.run_worker(
        command, folder / "log.txt", seconds=seconds, memory_bytes=memory
    )


def test_a_worker_is_measured_with_its_children(tmp_path):
    child = "import time; held = bytearray(300 * 2**20); time.sleep(1.5)"
    program = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {child!r}], check=True)
print("peer: " + {json.dumps(GOOD)!r})
"""
    measured = run_python(program, tmp_path)
    assert measured.round_seconds == (1.5,)
    assert 300 * 2**20 < measured.peak_rss_bytes < 400 * 2**20


@pytest.mark.parametrize(
    ("program", "limits", "message"),
    [
        ("raise ValueError('no data')", {}, "ended with status 1: ValueError: no data"),
        ("import time; time.sleep(60)", {"seconds": 0.5}, "out of time: over 0 s"),
        (
            "import time; held = bytearray(300 * 2**20); time.sleep(60)",
            {"memory": 2e8},
            "out of memory: over 0.2 GB",
        ),
    ],
)
def test_a_worker_that_fails_or_breaks_a_limit_says_so(tmp_path, program, limits, message):
    with pytest.raises(peer_process.WorkerError, match=message):
        run_python(program, tmp_path, **limits)


# The table ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_toy_run_of_ours_and_the_loops(tmp_path):
    pytest.importorskip("torch", reason="the loops need PyTorch: .[benchmark]")
    options = peers.PeerOptions(
        toy=True,
        results=tmp_path,
        folder=tmp_path / "peers",
        peers=("torch", "torch-loop", "fedjax-rec", "flower"),
    )
    table = peers.run(options)
    saved = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert saved["rows"] == table.rows
    ours, lean, releases, flower = table.rows
    assert ours["simulator"] == "fedjax-rec"
    assert lean["ours ×"] == pytest.approx(lean["s/round"] / ours["s/round"])
    assert 0 < lean["ours × given batches"] < lean["ours ×"]
    for row in (ours, lean, releases):
        assert row["status"] == "ok"
        assert row["clients/s"] == pytest.approx(20 / row["s/round"])
        assert row["peak MB"] > 50
        assert row["verdict"] is None
        assert row["loss"] == pytest.approx(ours["loss"], rel=0.05)
    assert flower["status"] == "not installed, and --toy installs nothing"
    assert "s/round" not in flower
    table.show()


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, peer in peers.PEERS.items() if peer.environment])
def test_toy_run_of_an_installed_simulator(tmp_path, monkeypatch, key):
    environment = peers.PEERS[key].environment
    if not peer_venvs.installed(VENVS / environment, peer_venvs.PINS[environment]):
        pytest.skip(f"{environment} is not installed: python benchmarks/peers.py installs it")
    (tmp_path / "venvs").symlink_to(VENVS)
    options = peers.PeerOptions(
        toy=True, results=tmp_path, folder=tmp_path, peers=("fedjax-rec", key)
    )
    _, row = peers.run(options).rows
    assert row["status"] == "ok"
    assert row["ours ×"] > 0


def test_a_simulator_that_cannot_be_installed_has_its_row(tmp_path, monkeypatch):
    wrong = ("--no-index", "no-such-simulator==1")
    monkeypatch.setitem(peer_venvs.PINS, "fedjax", wrong)
    options = peers.PeerOptions(
        results=tmp_path, folder=tmp_path, peers=("fedjax", "fedjax-bare"), **SMALL
    )
    rows = peers.run(options).rows
    assert [row["simulator"] for row in rows] == ["FedJAX fed_avg", "FedJAX for_each_client"]
    for row in rows:
        assert row["status"] == (
            "cannot be installed: ERROR: No matching distribution found for no-such-simulator==1"
        )
        assert row["clients"] == 20
    assert not (tmp_path / "venvs" / "fedjax").exists()


def test_an_environment_is_made_once_and_anew_for_other_pins(tmp_path, monkeypatch):
    calls = []

    def run(command, timeout):
        calls.append(command)
        tmp_path.joinpath("env").mkdir(exist_ok=True)

    monkeypatch.setattr(peer_venvs, "_run", run)
    assert peer_venvs.install(tmp_path / "env", ("a==1", "b==2")).parts[-2:] == ("bin", "python")
    assert len(calls) == 2
    peer_venvs.install(tmp_path / "env", ("a==1", "b==2"))
    assert len(calls) == 2
    peer_venvs.install(tmp_path / "env", ("a==1", "b==3"))
    assert len(calls) == 4
    assert not peer_venvs.installed(tmp_path / "env", ("a==1", "b==2"))


def test_a_worker_that_fails_has_its_row_and_is_not_tried_with_more_clients(tmp_path, monkeypatch):
    tried = []

    def fail(key, python, name, work, folder, options):
        tried.append(work.num_clients)
        raise peer_process.WorkerError("out of memory: over 1.0 GB")

    monkeypatch.setattr(peers, "_measure", fail)
    options = peers.PeerOptions(
        results=tmp_path, peers=("torch",), **SMALL | {"clients": (30, 20, 40)}
    )
    rows = peers.run(options).rows
    assert tried == [20]
    assert [row["clients"] for row in rows] == [20, 30, 40]
    assert [row["status"] for row in rows] == [
        "out of memory: over 1.0 GB",
        "not run: no measurement at 20 clients",
        "not run: no measurement at 20 clients",
    ]


def test_a_run_beyond_the_budget_is_named_and_not_started():
    growth = peers.Growth(peers.PeerOptions(rounds=3, budget=100))
    growth.note("torch", "synthetic", 1_000, peer_process.Measured((2.0, 4.0, 3.0), (), 1))
    growth.check("torch", "synthetic", 8_000)
    growth.check("torch", "ml-100k", 10**9)
    growth.check("pfl", "synthetic", 10**9)
    with pytest.raises(peer_process.WorkerError, match="4 rounds would take about 120 s"):
        growth.check("torch", "synthetic", 10_000)


@pytest.mark.parametrize(
    ("ratio", "given", "verdict"),
    [
        (9.9, None, "below"),
        (10.0, None, "ok"),
        (12.0, 10.5, "ok"),
        (12.0, 9.0, "ok; below if given batches"),
    ],
)
def test_verdicts(ratio, given, verdict):
    assert peers._verdict(ratio, given, 10) == verdict


def test_other_work_gets_no_verdict(tmp_path):
    work = small_work([[0, 1]] * 1_000, 5)
    np.savez(tmp_path / "trained.npz", items=work.items, heads=work.head[None])
    loss = shared.mean_loss(work, work.items, work.head[None])
    measured = peer_process.Measured((3.0,), (), 5)
    for ours_loss, verdict, status in [
        (loss * 1.04, "below", "ok"),
        (loss / 1.1, None, "loss +10% against ours: not the same work"),
    ]:
        ours = {"s/round": 1.0, "loss": ours_loss}
        row = peers._figures("pfl", work, measured, tmp_path / "trained.npz", ours)
        assert (row["verdict"], row["status"]) == (verdict, status)
        assert row["ours ×"] == 3


def test_a_client_that_was_not_trained_is_a_failure(tmp_path):
    work = small_work([[0, 1], [2]], 5)
    heads = np.stack([work.head, np.full(4, np.nan, np.float32)])
    np.savez(tmp_path / "trained.npz", items=work.items, heads=heads)
    measured = peer_process.Measured((3.0,), (), 5)
    with pytest.raises(peer_process.WorkerError, match="a client was left out"):
        peers._figures("flower", work, measured, tmp_path / "trained.npz", {})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"peers": ("tff",)}, "--peers tff: choose from fedjax-rec"),
        ({"clients": (1,)}, "--clients 1 must be 2 or more"),
        ({"clients": (), "ml_100k": False}, "nothing to run"),
        ({"rounds": 0}, "--rounds 0 must be above 0"),
    ],
)
def test_options_that_cannot_be_run(tmp_path, wrong, message):
    with pytest.raises(harness.InputError, match=message):
        peers.run(peers.PeerOptions(results=tmp_path, folder=tmp_path, **wrong))
