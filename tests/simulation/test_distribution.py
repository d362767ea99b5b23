"""Several processes as one run: here as in one process, and when one of them is killed."""

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from fedjax_rec import supervisor
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.simulation import distribution
from fedjax_rec.simulation.joining import Place, cluster_detected, place
from tests.cli.commands import COMMAND, TINY, error_line, here, poll, refused, rows, start

CGFEDREC = ("run", "cgfedrec", *TINY, "--clusters", "8", "--devices", "1", "--no-report")
PFEDREC = ("run", "pfedrec", *TINY, "--devices", "1", "--no-report")


def start_all(count: int, *arguments: Any, quick: bool = False) -> list[subprocess.Popen[str]]:
    """All processes of a run, started, on a port that is free now.

    ``quick`` leaves out the command itself, which only becomes its supervisor.
    """
    command = (sys.executable, "-IS", supervisor.__file__) if quick else (str(COMMAND),)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = (*arguments, "--coordinator", f"127.0.0.1:{port}", "--processes", count)
    return [start(*shared, "--process", i, command=command) for i in range(count)]


def end_all(running: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each; they must end within two minutes."""
    ends = []
    deadline = time.monotonic() + 120
    try:
        for process in running:
            out, err = process.communicate(timeout=max(1, deadline - time.monotonic()))
            ends.append((process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return ends


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The same rows, numbers within 1e-5: sums over devices are taken in another order."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            close = pytest.approx(b[name], rel=1e-5, abs=1e-5) if isinstance(value, float) else None
            assert value == (b[name] if close is None else close), name


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_with_the_same_numbers(tmp_path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    here(*PFEDREC, "--rounds", 4, "--out", alone)
    here(*PFEDREC, "--rounds", 2, "--out", out)
    ends = end_all(start_all(2, *PFEDREC, "--rounds", 4, "--out", out, "--resume"))
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert_close(rows(out), rows(alone))
    assert json.loads((out / "config.json").read_text())["device"]["processes"] == 2
    # One tells people, one writes.
    (_, told, progress), (_, *silence) = ends
    assert str(out) in told
    assert "on 2 × cpu in 2 processes" in progress
    assert silence == ["", ""]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.slow
def test_a_killed_coordinator_ends_the_other_and_one_process_goes_on(tmp_path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    arguments = (*CGFEDREC, "--checkpoint-every", 2, "--quiet", "--out", out)
    running = start_all(2, *arguments, "--rounds", 5000, quick=True)
    poll(running[0], lambda: any(out.glob("checkpoints/*[0-9]")))
    running[0].kill()
    first, (status, told, err) = end_all(running)
    assert first[0] == -signal.SIGKILL
    assert status == 2
    assert "a process of this run was lost" in error_line(told, err)
    assert err.rstrip().endswith("with --resume (any number of processes)")

    rounds = (out / "metrics.jsonl").read_text().count('"split": "val"') + 2
    here(*arguments, "--rounds", rounds, "--resume")
    here(*CGFEDREC, "--rounds", rounds, "--quiet", "--out", alone)
    assert_close(rows(out), rows(alone))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["device", "host", "disk"])
def test_four_processes_lose_one_and_go_on_with_two(state, tmp_path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    arguments = (*CGFEDREC, "--checkpoint-every", 2, "--quiet", "--out", out, "--state", state)
    running = start_all(4, *arguments, "--rounds", 5000)
    poll(running[0], lambda: any(out.glob("checkpoints/*[0-9]")))
    running[2].kill()
    for process, (status, told, err) in enumerate(end_all(running)):
        if process != 2:
            assert status == 2
            assert "a process of this run was lost" in error_line(told, err)

    rounds = (out / "metrics.jsonl").read_text().count('"split": "val"') + 2
    ends = end_all(start_all(2, *arguments, "--rounds", rounds, "--resume"))
    assert [status for status, _, _ in ends] == [0, 0], ends
    here(*CGFEDREC, "--rounds", rounds, "--quiet", "--out", alone)
    assert_close(rows(out), rows(alone))
    assert not list(out.glob("state*"))


@pytest.mark.slow
def test_asked_to_stop_one_process_stops_all_after_a_round(tmp_path):
    out = tmp_path / "run"
    running = start_all(2, *CGFEDREC, "--rounds", 5000, "--out", out)
    poll(running[0], lambda: (out / "metrics.jsonl").exists() and len(rows(out)) >= 4)
    running[1].send_signal(signal.SIGINT)
    (first, _, progress), (second, _, _) = end_all(running)
    assert (first, second) == (130, 130)
    stopped = re.search(r"stopped after round (\d+); add --resume", progress)
    assert stopped is not None
    assert [path.name for path in (out / "checkpoints").iterdir()] == [stopped[1]]


@pytest.mark.slow
def test_what_one_process_refuses_ends_all_with_its_line(tmp_path):
    out = tmp_path / "run"
    here(*PFEDREC, "--rounds", 1, "--out", out)
    for status, told, err in end_all(start_all(2, *PFEDREC, "--rounds", 2, "--out", out)):
        assert status == 2
        assert "already holds a run: add --resume" in error_line(told, err)

    shutil.rmtree(out)
    running = start_all(2, *PFEDREC, "--rounds", 2, "--out", out, "--quiet")
    running[1].kill()
    running[1].communicate()
    at = running[0].args
    assert isinstance(at, list)
    coordinator = at[at.index("--coordinator") + 1]
    other = ("--seed", 5, "--coordinator", coordinator, "--processes", 2, "--process", 1)
    running[1] = start(*PFEDREC, "--rounds", 2, "--out", out, "--quiet", *other)
    for status, told, err in end_all(running):
        assert status == 2
        assert "differ in options, data or versions" in error_line(told, err)
    assert not out.exists()


@pytest.mark.slow
def test_a_process_that_nobody_joins_says_so(tmp_path):
    arguments = (*PFEDREC, "--out", tmp_path / "run", "--join-seconds", 2)
    running = start_all(2, *arguments)
    running[1].kill()
    status, told, err = end_all(running)[0]
    assert status == 2
    assert "not all processes of this run came in time" in error_line(told, err)


def test_a_coordinator_that_is_not_there_is_told_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        joining = "from fedjax_rec.simulation.joining import Place, join; "
        code = f"{joining} join({Place(coordinator, 1, 2)}, seconds=1)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
        )
    last = done.stderr.rstrip().splitlines()[-1]
    assert f"InputError: nobody listens at {coordinator} after 1 s" in last
    assert "--join-seconds" in last


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--process", 0), "--coordinator and --processes missing"),
        (("--coordinator", "h:1", "--processes", 2), "--process missing"),
        (("--coordinator", "h", "--process", 0, "--processes", 2), "'h' is not HOST:PORT"),
        (("--coordinator", ":1", "--process", 0, "--processes", 2), "':1' is not HOST:PORT"),
        (("--coordinator", "h:0", "--process", 0, "--processes", 2), "'h:0' is not HOST:PORT"),
        (("--coordinator", "h:1", "--process", 2, "--processes", 2), "--process 2 of 2 is out of"),
        (("--coordinator", "h:1", "--process", -1, "--processes", 2), "--process -1 of 2 is out"),
        (("--coordinator", "h:1", "--process", 0, "--processes", 0), "--processes 0 must be"),
        (("--coordinator", "h:1", "--process", 0, "--processes", 2), "name it with --out"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(options, error, capfd):
    assert error in refused(capfd, *PFEDREC, *options)


def test_one_process_of_one_is_an_ordinary_run(tmp_path):
    out = tmp_path / "run"
    options = ("--coordinator", "nowhere:1", "--process", 0, "--processes", 1)
    here(*PFEDREC, "--rounds", 1, "--out", out, *options)
    assert json.loads((out / "config.json").read_text())["device"]["processes"] == 1


def test_places():
    assert place(None, None, None) is None
    assert place("[::1]:80", 1, 2) == Place("[::1]:80", 1, 2)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"SLURM_NTASKS": "1"}, False),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_clusters_are_told_by_their_variables(variables, several, monkeypatch):
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    known = (*slurm, "SLURM_NTASKS", "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE")
    for name in (*known, "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    if "SLURM_NTASKS" in variables:
        variables = variables | dict.fromkeys(slurm, "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cluster_detected() == several


def test_in_one_process_nothing_travels():
    tree = {"a": np.arange(3), "b": (np.float32(1), None)}
    assert distribution.processes() == 1
    assert distribution.leads()
    assert distribution.same_everywhere(tree) is tree
    assert distribution.host_work(lambda tree: tree["a"], tree) is tree["a"]
    assert distribution.lead(lambda: 7) == 7
    assert [distribution.any_process(flag) for flag in (True, False)] == [True, False]
    assert distribution.own("state") == "state"
    distribution.must_agree("anything", "never")


def test_rows_come_in_blocks_that_cover_them(monkeypatch):
    from fedjax_rec.simulation.devices import client_mesh

    monkeypatch.setattr(distribution, "_BLOCK_BYTES", 4 * 3 * 4)  # four rows of three
    mesh = client_mesh(1)
    sharding = distribution.NamedSharding(mesh, distribution.PartitionSpec(mesh.axis_names[0]))
    for rows_, devices in itertools.product((2, 8, 10), (1, 2)):
        whole = np.arange(rows_ * 3, dtype=np.float32).reshape(rows_, 3)
        found = np.full((devices, rows_ // devices, 3), np.nan, np.float32)
        for first, block in distribution.fetch_rows(distribution.shard(whole, sharding), devices):
            assert block.nbytes <= 48
            found[:, first : first + block.shape[1]] = block
        np.testing.assert_array_equal(found.reshape(whole.shape), whole)


def test_only_what_jax_says_of_a_lost_peer_is_translated(monkeypatch):
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [10.0.0.1]:1")
    with pytest.raises(ValueError, match="Gloo"), distribution.lost_process_told("round 3"):
        raise gloo  # one process: it must mean something else
    monkeypatch.setattr(distribution, "processes", lambda: 2)
    told = pytest.raises(TrainingError, match=r"^round 3: a process of this run was lost")
    with told, distribution.lost_process_told("round 3"):
        raise gloo
    for other in (ValueError("a shape"), InputError("no connection closed"), KeyboardInterrupt()):
        with pytest.raises(type(other)) as caught, distribution.lost_process_told("round 3"):
            raise other
        assert caught.value is other
