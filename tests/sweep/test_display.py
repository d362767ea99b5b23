"""What is shown while a sweep runs, and how far a trial is."""

import json
from io import StringIO

import pytest
from rich.console import Console

from fedjax_rec.sweep.display import Display
from fedjax_rec.sweep.manifest import Manifest
from fedjax_rec.sweep.trials import Trial
from fedjax_rec.sweep.watch import Progress, Watch
from tests.reports.fakes import write_lines


def line(round_, split="val", **metrics):
    return {"round": round_, "split": split, **metrics}


def test_the_best_validation_value_and_the_last_round(tmp_path):
    watch = Watch(tmp_path)
    assert watch.progress() == Progress()
    scores = {"hr@10/uni99": 0.3, "recall@10/full": 0.9}
    rows = [line(1, **scores), line(1, "test", **{"hr@10/uni99": 0.8})]
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert watch.progress() == Progress(1, "hr@10/uni99", 0.3)
    rows += [line(2, **{"hr@10/uni99": 0.2}), line(3, **{"hr@10/uni99": None})]
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert watch.progress() == Progress(3, "hr@10/uni99", 0.3)
    assert str(watch.progress()) == "hr@10 30.0\N{NO-BREAK SPACE}%"
    (tmp_path / "metrics.jsonl").unlink()
    assert watch.progress() == Progress()


def test_a_line_that_is_being_written(tmp_path):
    whole = json.dumps(line(4, **{"recall@10/full": 0.1})) + "\n"
    for cut in (1, 10, len(whole) - 2):
        (tmp_path / "metrics.jsonl").write_text(whole + whole[:cut])
        assert Watch(tmp_path).progress() == Progress(4, "recall@10/full", 0.1)


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "trials").mkdir()
    trials = [
        Trial(f"{n:010}", f"local_lr={n}_{n:010}", f"local [lr={n}]", "local", {"lr": n}, (), 9, {})
        for n in range(30)
    ]
    return Manifest(tmp_path, trials, spec_text="", retry_failed=False)


def test_a_terminal_has_a_live_table_that_fits(manifest):
    ids = list(manifest.entries)
    shown = StringIO()
    console = Console(file=shown, width=100, height=40, force_terminal=True, color_system=None)
    with Display(manifest, console) as display:
        manifest.set(ids[0], "running")
        display.started(ids[0])
        folder = manifest.entries[ids[0]].folder
        folder.mkdir()
        write_lines(folder / "metrics.jsonl", [line(7, **{"hr@10/uni99": 0.25})])
        manifest.set(ids[29], "failed", "x")
        display.ended(ids[29])
        display.refresh()
    last = shown.getvalue().rpartition("best on validation")[2]
    assert "local [lr=0]" in last  # a label is no markup
    assert "7/9" in last
    assert "hr@10 25.0" in last
    assert "failed" in last
    assert "30 trials: 1 running, 1 failed, 28 waiting" in last
    assert last.count("local [lr=") == 20


def test_elsewhere_there_are_lines(manifest):
    ids = list(manifest.entries)
    shown = StringIO()
    with Display(manifest, Console(file=shown, width=60, highlight=False)) as display:
        manifest.set(ids[0], "running")
        display.started(ids[0])
        manifest.set(ids[0], "failed", "what [happened] to it")
        display.ended(ids[0])
    first, second = shown.getvalue().splitlines()
    assert first == "[ 0/30] local_lr=0_0000000000: started"
    assert second.startswith("[ 1/30] local_lr=0_0000000000: failed, 0/9, –, ")
    assert second.endswith(": what [happened] to it")
