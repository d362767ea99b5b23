"""Trials as tasks of a local Ray cluster."""

import builtins
import secrets
import time

import pytest

from fedjax_rec.cli import parse_run
from fedjax_rec.errors import InputError
from fedjax_rec.sweep.process import Job
from fedjax_rec.sweep.ray_executor import RayExecutor
from fedjax_rec.sweep.run import run_sweep
from tests.cli.commands import rows
from tests.sweep.toy import write_spec

SPEC = """
method = "popularity"
rounds = 1
data_options = {users = 24, items = 40, interactions_per_user = 8}
[grid]
cohort = [24, 25]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one machine with two CPUs, which the executor finds and leaves running."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        # A token of the tests' own: Ray would write one into the user's home. Before the import,
        # which reads the mode.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        reason = "Ray is not installed: pip install 'fedjax-rec[ray]'"
        ray = pytest.importorskip("ray", reason=reason)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.mark.slow
def test_a_sweep_on_a_cluster(cluster, tmp_path):
    result = run_sweep(write_spec(tmp_path, SPEC), parse_run, out=tmp_path / "out", executor="ray")
    assert result.frame["status"].tolist() == ["finished", "failed"]
    (failed,) = result.unfinished
    assert failed.error.startswith("cohort=25 must be from 1 to the number of clients")
    (done,) = (tmp_path / "out" / "trials").iterdir()
    assert rows(done)[0]["round"] == 1
    assert cluster.is_initialized()


@pytest.mark.slow
def test_a_task_that_is_stopped_ends_its_process(cluster, tmp_path):
    executor = RayExecutor(None, cpus=2, gpus=0)
    assert executor.slots == 1
    out = tmp_path / "run"
    run = ("run", "popularity", "--data-options", "users=24", "items=40", "interactions_per_user=8")
    arguments = (*run, "--rounds", "100000", "--no-report", "--out", str(out))
    job = Job("one", arguments, str(out), str(tmp_path / "log"), str(tmp_path))
    executor.start(job)
    wait(lambda: (out / "metrics.jsonl").exists())
    assert executor.ended() == {}
    executor.stop()
    ended: dict = {}
    wait(lambda: ended.update(executor.ended()) or ended)
    assert ended["one"].interrupted
    log = (tmp_path / "log").read_text()
    assert log.rstrip().endswith("add --resume to go on from here")
    executor.close()


@pytest.mark.slow
def test_a_trial_that_fits_nowhere(cluster):
    with pytest.raises(InputError, match="no machine for a trial of 3 CPUs and 0 GPUs"):
        RayExecutor(1, cpus=3, gpus=0)
    with pytest.raises(InputError, match="no machine for a trial of 1 CPUs and 1 GPUs"):
        RayExecutor(1, cpus=1, gpus=1)


def test_without_ray_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments):
        if name == "ray":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(InputError, match="pip install 'fedjax-rec\\[ray\\]'"):
        RayExecutor(1, cpus=1, gpus=0)


def wait(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.05)
