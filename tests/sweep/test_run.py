"""The loop over trials, with an executor that trains nothing."""

import json
import os
import signal
from io import StringIO

import pytest
from rich.console import Console

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.lock import hold
from fedjax_rec.sweep import figure
from fedjax_rec.sweep import run as loop
from fedjax_rec.sweep.run import run_sweep
from tests.sweep.toy import FakeExecutor, parse_toy, write_spec

THREE = 'method = "local"\nrounds = 3\n[grid]\nlr = [0.1, 0.2, 0.3]\n'


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a specification with an executor; returns the result and what was shown."""

    def run(text, executor, **options):
        monkeypatch.setattr(loop, "_executor", lambda *_: executor)
        shown = StringIO()
        result = run_sweep(
            write_spec(tmp_path, text),
            parse_toy,
            out=tmp_path / "out",
            console=Console(file=shown, width=100, highlight=False),
            **options,
        )
        return result, shown.getvalue()

    monkeypatch.setattr(loop, "_TICK_SECONDS", 0.0)
    # It takes a second a sweep, and has tests of its own.
    monkeypatch.setattr(figure, "sweep_figure", lambda *_: None)
    return run


def statuses(tmp_path):
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    return {entry["name"].split("_")[1]: entry["status"] for entry in content["trials"]}


def failing(code, word):
    return lambda name: code if word in name else 0


def test_all_trials_run_in_their_folders_with_the_slots_filled(sweep, tmp_path):
    executor = FakeExecutor(slots=2)
    result, shown = sweep(THREE, executor)
    assert [job.name.split("_")[1] for job in executor.started] == ["lr=0.1", "lr=0.2", "lr=0.3"]
    assert executor.most == 2
    assert executor.told == ["close"]
    job = executor.started[1]
    assert job.arguments[:4] == ("run", "local", "--rounds=3", "--lr=0.2")
    assert job.arguments[-3:-1] == ("--label=local lr=0.2", f"--out={job.folder}")
    assert job.arguments[-1] == "--resume"
    assert result.unfinished == ()
    assert set(statuses(tmp_path).values()) == {"finished"}
    assert "[3/3] " in shown
    assert "finished, 3/3, hr@10 " in shown


def test_what_is_finished_is_not_repeated(sweep):
    sweep(THREE, FakeExecutor())
    again = FakeExecutor()
    result, _ = sweep(THREE, again)
    assert again.started == []
    assert (result.frame["status"] == "finished").all()


@pytest.mark.parametrize("half", ["", "{", '{"rounds": 2}', "[]"], ids=repr)
def test_a_summary_that_is_missing_or_not_whole_is_no_end(half, sweep, tmp_path):
    sweep(THREE, FakeExecutor())
    (file,) = (tmp_path / "out" / "trials").glob("*lr=0.2*/summary.json")
    file.write_text(half) if half else file.unlink()
    again = FakeExecutor()
    sweep(THREE, again)
    assert [job.name.split("_")[1] for job in again.started] == ["lr=0.2"]


def test_a_failure_is_listed_and_the_rest_goes_on(sweep, tmp_path):
    result, shown = sweep(THREE, FakeExecutor(failing(2, "0.1"), slots=1))
    assert statuses(tmp_path) == {"lr=0.1": "failed", "lr=0.2": "finished", "lr=0.3": "finished"}
    (failed,) = result.unfinished
    assert failed.error == "something is wrong with it"
    assert failed.log.read_text().startswith("compiling\n")
    assert "failed, 0/3, –, " in shown
    assert result.frame["error"].tolist() == ["something is wrong with it", "", ""]


def test_failures_are_run_again_only_when_asked_to(sweep, tmp_path):
    sweep(THREE, FakeExecutor(failing(2, "0.1")))
    again = FakeExecutor()
    result, _ = sweep(THREE, again)
    assert again.started == []
    assert [entry.error for entry in result.unfinished] == ["something is wrong with it"]
    asked = FakeExecutor()
    result, _ = sweep(THREE, asked, retry_failed=True)
    assert [job.name.split("_")[1] for job in asked.started] == ["lr=0.1"]
    assert result.unfinished == ()
    assert set(statuses(tmp_path).values()) == {"finished"}


@pytest.mark.parametrize("code", [-signal.SIGKILL, 129, 130])
def test_what_was_ended_from_outside_goes_on_with_the_next_call(code, sweep, tmp_path):
    result, _ = sweep(THREE, FakeExecutor(failing(code, "0.3")))
    assert statuses(tmp_path)["lr=0.3"] == "killed"
    (killed,) = result.unfinished
    assert killed.error == ("ended by SIGKILL (short of memory?)" if code < 0 else "interrupted")
    again = FakeExecutor()
    sweep(THREE, again)
    assert [job.name.split("_")[1] for job in again.started] == ["lr=0.3"]


def test_the_error_is_of_the_last_sitting(sweep, tmp_path):
    sweep(THREE, FakeExecutor(failing(2, "0.1")))
    (log,) = (tmp_path / "out" / "logs").glob("*lr=0.1*")

    class Silent(FakeExecutor):
        def _end(self, job):
            return loop.Ending(1)

    result, _ = sweep(THREE, Silent(), retry_failed=True)
    assert [entry.error for entry in result.unfinished] == ["ended with 1, saying nothing"]
    assert "something is wrong" in log.read_text()


def test_an_edited_specification_keeps_what_it_still_has(sweep, tmp_path):
    sweep(THREE, FakeExecutor())
    folders = {path.name for path in (tmp_path / "out" / "trials").iterdir()}
    edited = FakeExecutor()
    text = 'method = "local"\nrounds = 3\n[grid]\nlr = [0.2, 0.3, 0.4]\ndim = [32, 16]\n'
    result, shown = sweep(text, edited)
    (gone,) = (name for name in folders if "lr=0.1" in name)
    assert f"no longer in {tmp_path / 'spec.toml'}, its folder stays: {gone}" in shown
    assert len(edited.started) == 4
    assert {path.name for path in (tmp_path / "out" / "trials").iterdir()} > folders
    assert len(result.frame) == 6
    # The trials that were there under fewer axes keep their folders, with the new values beside.
    kept = result.frame[result.frame["trial"].isin(folders)]
    assert kept["dim"].tolist() == [32, 32]
    # And one that comes back is there.
    back = FakeExecutor()
    _, shown = sweep(THREE, back)
    assert back.started == []
    assert shown.count("its folder stays") == 4


def test_finished_trials_are_found_by_their_folders_without_the_manifest(sweep, tmp_path):
    sweep(THREE, FakeExecutor())
    (tmp_path / "out" / "sweep.json").unlink()
    again = FakeExecutor()
    sweep(THREE, again)
    assert again.started == []


def test_more_rounds_go_on_and_fewer_are_refused(sweep, tmp_path):
    sweep(THREE, FakeExecutor())
    more = FakeExecutor()
    sweep(THREE.replace("rounds = 3", "rounds = 4"), more)
    assert len(more.started) == 3
    with pytest.raises(InputError, match="has 4 rounds already: set rounds = 4 or more"):
        sweep(THREE.replace("rounds = 3", "rounds = 2"), FakeExecutor())


def test_a_manifest_that_is_none(sweep, tmp_path):
    sweep(THREE, FakeExecutor())
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "trials": [{}]}'):
        (tmp_path / "out" / "sweep.json").write_text(text)
        with pytest.raises(InputError, match="is no manifest of trials") as error:
            sweep(THREE, FakeExecutor())
        assert "\n" not in str(error.value)


def test_two_sweeps_in_one_folder(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    executor = FakeExecutor()
    with hold(tmp_path / "out"), pytest.raises(InputError, match="is in use by process "):
        sweep(THREE, executor)
    assert executor.started == []
    sweep(THREE, executor)
    assert len(executor.started) == 3


@pytest.fixture
def _interruptible():
    """What a shell starts in the background ignores SIGINT, and would wait for it here for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_lets_trials_end_and_is_passed_on(number, sweep, tmp_path):
    class Interrupted(FakeExecutor):
        """Its first job is interrupted, and ends when asked to stop."""

        def _taken(self):
            if not self.told:
                os.kill(os.getpid(), number)
                return []
            return super()._taken()

    executor = Interrupted(lambda name: 130, slots=1)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        sweep(THREE, executor)
    assert executor.told == ["stop", "close"]
    assert len(executor.started) == 1
    assert signal.getsignal(number) is before
    assert statuses(tmp_path) == {"lr=0.1": "killed", "lr=0.2": "waiting", "lr=0.3": "waiting"}


@pytest.mark.usefixtures("_interruptible")
def test_a_second_interruption_ends_trials_at_once(sweep, tmp_path):
    class Stubborn(FakeExecutor):
        """Its jobs end only when they are killed."""

        def _taken(self):
            if "kill" in self.told:
                return super()._taken()
            os.kill(os.getpid(), signal.SIGINT)
            return []

    executor = Stubborn(lambda name: -signal.SIGKILL, slots=1)
    with pytest.raises(KeyboardInterrupt):
        sweep(THREE, executor)
    assert executor.told == ["stop", "kill", "close"]
    assert statuses(tmp_path)["lr=0.1"] == "killed"


def test_an_error_of_the_sweep_itself_leaves_no_trial_running(sweep):
    class Broken(FakeExecutor):
        def ended(self):
            raise OSError("no space")

    executor = Broken()
    with pytest.raises(OSError, match="no space"):
        sweep(THREE, executor)
    assert executor.told == ["kill", "close"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"jobs": 0}, "--jobs 0 must be 1 or more"),
        ({"cpus_per_trial": 0.0}, "--cpus-per-trial 0.0 must be above 0"),
        ({"gpus_per_trial": -1.0}, "--gpus-per-trial -1.0 must be 0 or more"),
    ],
)
def test_numbers_that_cannot_be(options, told, sweep, tmp_path):
    with pytest.raises(InputError, match=told):
        sweep(THREE, FakeExecutor(), **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(sweep, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="cannot write to"):
        sweep(THREE, FakeExecutor())
