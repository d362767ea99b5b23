"""Runs that end before their time go on as if nothing had happened."""

import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import TINY, here, poll, process, rows, start, summary
from tests.cli.killed import MOMENTS

ROUNDS = 8
RUN = ("run", "cgfedrec", *TINY, "--clusters", "8", "--no-report", "--quiet")
CHECKPOINTS = ("--checkpoint-every", "3")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    here(*RUN, *CHECKPOINTS, "--rounds", ROUNDS, "--out", out)
    return out


def ranks(folder: Path) -> dict[str, np.ndarray]:
    """``ranks.npz``."""
    with np.load(folder / "ranks.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def same(resumed: Path, uninterrupted: Path) -> None:
    """Every key of every row but the wall times, bit by bit; the summary, and ranks."""
    assert rows(resumed) == rows(uninterrupted)
    assert summary(resumed) == summary(uninterrupted)
    ours, theirs = ranks(resumed), ranks(uninterrupted)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("moment", "state"), list(zip(MOMENTS, ("host", "disk", "device", "disk"), strict=True))
)
def test_a_run_killed_at_a_moment_resumes_bitwise(
    moment, state, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out = tmp_path / "run"
    arguments = (*RUN, *CHECKPOINTS, "--state", state, "--rounds", ROUNDS, "--out", out)
    command = (sys.executable, "-m", "tests.cli.killed", moment)
    killed = start(*arguments, command=command)
    _, err = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, err
    done = rows(out)
    assert done == rows(uninterrupted)[: len(done)]
    assert not (out / "summary.json").exists()
    unfinished = list(out.glob("checkpoints/*tmp*"))
    assert bool(unfinished) == ("during" in moment)

    here(*arguments, "--resume")
    same(out, uninterrupted)
    assert not list(out.glob("checkpoints/*tmp*"))
    assert not list(out.glob("state*"))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["host", "disk"])
def test_a_run_killed_at_ten_random_moments_resumes_bitwise(state, tmp_path):
    """Five starts killed at work, after a checkpoint of their own; five while they start."""
    out, reference = tmp_path / "run", tmp_path / "reference"
    arguments = (*RUN, *CHECKPOINTS, "--eval-every", 5, "--state", state, "--out", out, "--resume")
    moments = random.Random(state)

    def saved() -> int:
        return max((int(p.name) for p in out.glob("checkpoints/*") if p.name.isdigit()), default=0)

    for attempt in range(10):
        before = saved()
        running = start(*arguments, "--rounds", 100_000)
        if attempt % 2:
            poll(running, lambda before=before: saved() > before)
            time.sleep(moments.uniform(0, 1))
        else:
            time.sleep(moments.uniform(0, 5))
        running.kill()
        _, err = running.communicate()
        assert running.returncode == -signal.SIGKILL, err
        assert saved() >= before

    rounds = saved() + 7
    here(*arguments, "--rounds", rounds)
    here(*RUN, "--eval-every", 5, "--rounds", rounds, "--out", reference)
    same(out, reference)
    assert not list(out.glob("state*"))


def test_a_clock_that_jumps_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    """Hours forwards and back at every look, and checkpoints that are older than the ones before:
    durations are of a clock that does not jump, and the latest checkpoint is that of the latest
    round."""
    jumps, now = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-1e5, 1e5))
    out = tmp_path / "run"
    here(*RUN, *CHECKPOINTS, "--rounds", 7, "--out", out)
    for path in out.glob("checkpoints/*"):
        os.utime(path, (0, 1e9 - 1e6 * int(path.name)))
    here(*RUN, *CHECKPOINTS, "--rounds", ROUNDS, "--out", out, "--resume")
    same(out, uninterrupted)
    told = json.loads((out / "summary.json").read_text())
    seconds = {key: value for key, value in told.items() if key.endswith("seconds")}
    assert seconds
    assert all(0 <= value < 300 for value in seconds.values()), seconds


@pytest.mark.slow
def test_the_installed_command_killed_from_outside_resumes_bitwise(tmp_path):
    out, reference = tmp_path / "run", tmp_path / "reference"
    running = start(*RUN, *CHECKPOINTS, "--rounds", 5000, "--out", out)
    poll(running, lambda: any(out.glob("checkpoints/*[0-9]")))
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    # The last line may be half of one: the file is rewritten from the checkpoint.
    rounds = (out / "metrics.jsonl").read_text().count('"val"') + 2

    resumed = process(*RUN, *CHECKPOINTS, "--rounds", rounds, "--out", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    here(*RUN, "--rounds", rounds, "--out", reference)
    same(out, reference)


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_asked_to_stop_it_ends_after_the_round_and_resumes_bitwise(asked, tmp_path):
    out, reference = tmp_path / "run", tmp_path / "reference"
    arguments = tuple(word for word in RUN if word != "--quiet")
    running = start(*arguments, "--checkpoint-every", 1000, "--rounds", 5000, "--out", out)
    poll(running, lambda: (out / "metrics.jsonl").exists() and len(rows(out)) >= 4)
    os.kill(running.pid, asked)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "Traceback" not in err
    told = re.search(r"stopped after round (\d+); add --resume to go on from here\n$", err)
    assert told, err[-500:]
    stopped = int(told[1])
    assert [path.name for path in (out / "checkpoints").iterdir()] == [str(stopped)]
    assert len(rows(out)) == 2 * stopped

    here(*RUN, "--rounds", stopped + 2, "--out", out, "--resume")
    here(*RUN, "--rounds", stopped + 2, "--out", reference)
    same(out, reference)


def test_more_rounds_extend_a_finished_run(uninterrupted, tmp_path):
    out = tmp_path / "run"
    here(*RUN, "--rounds", 3, "--out", out)
    finished = summary(out)
    assert finished["rounds"] == 3
    here(*RUN, "--rounds", ROUNDS, "--out", out, "--resume")
    same(out, uninterrupted)


def test_ranks_of_a_best_round_before_the_checkpoint_are_kept(tmp_path):
    """Popularity has the same score in every round: the first is the best of them."""
    out, reference = tmp_path / "run", tmp_path / "reference"
    run = ("run", "popularity", *TINY, "--no-report", "--quiet")
    here(*run, "--rounds", 2, "--out", out)
    (out / "ranks.npz").unlink()
    here(*run, "--rounds", 3, "--out", out, "--resume")
    here(*run, "--rounds", 3, "--out", reference)
    assert ranks(out)["round"] == 1
    same(out, reference)


def test_an_extended_run_is_unfinished_until_it_ends(tmp_path, monkeypatch):
    from fedjax_rec.simulation.folder import RunFolder

    out = tmp_path / "run"
    here(*RUN, "--rounds", 1, "--out", out)

    def stop(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append_metrics", stop)
    with pytest.raises(SystemExit) as end:
        here(*RUN, "--rounds", 2, "--out", out, "--resume")
    assert end.value.code == 130
    assert not (out / "summary.json").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    out = tmp_path / "run"
    options = ("--clip", "1.0", "--laplace", "2.0")
    here(*RUN, *options, "--rounds", 2, "--out", out)
    before, told = rows(out), summary(out)
    assert told["epsilon"] > 0
    here(*RUN, *options, "--rounds", 2, "--out", out, "--resume")
    assert rows(out) == before
    assert summary(out) == told


@pytest.mark.parametrize("other", [("--chunk", "4"), ("--devices", "1")])
def test_other_devices_and_chunks_resume_up_to_float_tolerance(other, tmp_path, two_devices):
    run = ("run", "pfedrec", *TINY, "--no-report", "--quiet")
    out, reference = tmp_path / "run", tmp_path / "reference"
    here(*run, "--rounds", 5, "--out", reference)
    here(*run, "--rounds", 2, "--out", out)
    here(*run, "--rounds", 5, "--out", out, "--resume", *other)
    for ours, theirs in zip(rows(out), rows(reference), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["split"] == theirs.pop("split")
        for key, value in theirs.items():
            # Metrics move in steps of one of 24 users when two scores are all but equal.
            tolerance = 0.05 if "@" in key else 0.0
            assert ours[key] == pytest.approx(value, rel=1e-3, abs=tolerance), key
    assert rows(out)[:4] == rows(reference)[:4]


def test_resume_without_a_checkpoint_starts_at_the_beginning(uninterrupted, tmp_path, capfd):
    out = tmp_path / "run"
    loud = tuple(word for word in RUN if word != "--quiet")
    here(*loud, *CHECKPOINTS, "--rounds", ROUNDS, "--out", out, "--resume")
    assert f"no checkpoint in {out} yet: starting with round 1" in capfd.readouterr().err
    same(out, uninterrupted)
