"""A sweep by the installed command: killed, with a worker of it, and run again to its end."""

import json
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.lock import hold
from fedjax_rec.sweep.process import Job, TrialProcess
from fedjax_rec.sweep.worker import wait_for
from tests.cli.commands import here, poll, process, rows, start, summary
from tests.sweep.toy import write_spec

TINY = {"users": 24, "items": 40, "interactions_per_user": 8}
ROUNDS = 80
# A cohort of 25 is more than there are clients: a trial that fails.
SPEC = f"""
method = "pfedrec"
rounds = {ROUNDS}
checkpoint_every = 10
data_options = {{users = 24, items = 40, interactions_per_user = 8}}
[grid]
cohort = [24, 12, 25]
"""


def trial(out: Path, cohort: int) -> Path:
    """The folder of a trial; it need not exist."""
    (folder,) = [*out.glob(f"trials/pfedrec_cohort={cohort}_*")] or [out / "none"]
    return folder


def statuses(out: Path) -> list[str]:
    return [entry["status"] for entry in json.loads((out / "sweep.json").read_text())["trials"]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A sweep of which one worker, and then the sweep itself, was killed: its specification, its
    folder, and the processes that it had."""
    folder = tmp_path_factory.mktemp("killed")
    spec, out = write_spec(folder, SPEC), folder / "out"
    running = start("sweep", spec, "--out", out, "--jobs", 2)
    workers: dict[int, psutil.Process] = {}

    def caught() -> bool:
        """Pauses each worker once it has a checkpoint, so that none comes to its end."""
        for cohort in {24, 12} - set(workers):
            if any(trial(out, cohort).glob("checkpoints/*[0-9]")):
                name = trial(out, cohort).name
                (workers[cohort],) = (
                    child
                    for child in psutil.Process(running.pid).children()
                    if any(name in word for word in child.cmdline())
                )
                workers[cohort].suspend()
        return len(workers) == 2

    poll(running, caught)
    workers[24].kill()
    poll(running, lambda: statuses(out)[0] == "killed")
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    workers[12].resume()
    return spec, out, list(workers.values())


@pytest.fixture(scope="module")
def finished(killed):
    """The same command again, to its end."""
    spec, out, _ = killed
    return process("sweep", spec, "--out", out, "--jobs", 2)


@pytest.mark.slow
def test_a_trial_ends_when_its_sweep_is_killed(killed):
    _, out, workers = killed
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert not list(out.glob("trials/*/summary.json"))


@pytest.mark.slow
@pytest.mark.parametrize("cohort", [24, 12])
def test_half_finished_trials_resume_to_the_figures_of_an_uninterrupted_run(
    cohort, killed, finished, tmp_path
):
    _, out, _ = killed
    options = [f"{name}={value}" for name, value in TINY.items()]
    here(
        *("run", "pfedrec", "--data-options", *options, "--rounds", ROUNDS, "--cohort", cohort),
        *("--no-report", "--quiet", "--out", tmp_path / "run"),
    )
    assert rows(trial(out, cohort)) == rows(tmp_path / "run")
    resumed, reference = (summary(folder) for folder in (trial(out, cohort), tmp_path / "run"))
    assert {**resumed, "label": ""} == {**reference, "label": ""}
    (log,) = out.glob(f"logs/pfedrec_cohort={cohort}_*.log")
    assert "resuming after round " in log.read_text()


@pytest.mark.slow
def test_the_failure_is_listed_and_the_exit_status_says_so(killed, finished):
    _, out, _ = killed
    assert finished.returncode == 1, finished.stderr
    assert statuses(out) == ["finished", "finished", "failed"]
    last = finished.stdout.splitlines()[-1]
    assert last.startswith("failed: pfedrec_cohort=25_")
    assert "cohort=25 must be from 1 to the number of clients" in last
    assert "Traceback" not in finished.stderr
    for name in ("results.csv", "results.parquet", "sweep.png"):
        assert (out / name).stat().st_size > 0, name


@pytest.mark.slow
def test_a_third_time_nothing_is_left_to_do(killed, finished, capsys):
    spec, out, _ = killed
    before = {path: path.stat().st_mtime_ns for path in out.glob("*s/**/*")}
    with pytest.raises(SystemExit) as end:
        here("sweep", spec, "--out", out)
    assert end.value.code == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("*s/**/*")} == before
    assert "started" not in capsys.readouterr().err


def test_a_trial_waits_for_its_predecessor(tmp_path):
    wait_for(tmp_path / "none")
    wait_for(tmp_path)
    waiting = threading.Thread(target=wait_for, args=(tmp_path,), daemon=True)
    with hold(tmp_path):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
    waiting.join(timeout=30)
    assert not waiting.is_alive()


def test_a_log_that_cannot_be_written(tmp_path):
    job = Job("name", (), str(tmp_path), str(tmp_path / "none" / "log"), str(tmp_path))
    with pytest.raises(InputError, match=r"its log .* not be written: No such file"):
        TrialProcess(job)
