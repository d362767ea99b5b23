"""Tables and their JSON, the command line, and what a timing leaves out."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import harness
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.errors import InputError


@pytest.fixture
def table(tmp_path):
    return harness.Table("figures", "A title", harness.Options(results=tmp_path))


def test_a_row_is_on_disk_as_soon_as_it_is_added(table, tmp_path):
    table.add(method="pfedrec", seconds=0.25)
    table.note("a note")
    table.add(method="cgfedrec", ratio=12.5)
    saved = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert saved["rows"] == [
        {"method": "pfedrec", "seconds": 0.25},
        {"method": "cgfedrec", "ratio": 12.5},
    ]
    assert saved["notes"] == ["a note"]
    assert saved["options"] == {"toy": False, "seed": 0, "devices": None}
    assert saved["environment"]["versions"]["jax"]
    assert table.columns == ["method", "seconds", "ratio"]


def test_options_are_recorded_but_for_folders(tmp_path):
    @dataclass(frozen=True)
    class SweepOptions(harness.Options):
        clients: tuple[int, ...] = (100, 1_000)
        runs: Path = Path("runs")

    harness.Table("figures", "A title", SweepOptions(results=tmp_path)).save()
    saved = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert saved["options"] == {"toy": False, "seed": 0, "devices": None, "clients": [100, 1000]}


def test_a_figure_that_json_cannot_hold_leaves_the_old_file(table, tmp_path):
    table.add(seconds=1.0)
    before = (tmp_path / "figures.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        table.add(seconds=float("nan"))
    assert (tmp_path / "figures.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_failing_disk_leaves_neither_a_half_nor_a_temporary_file(table, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    table.add(seconds=1.0)
    monkeypatch.setattr(harness.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        table.add(seconds=2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert len(json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["rows"]) == 1


def test_toy_figures_are_marked_and_not_saved_among_the_results(capsys):
    toy = harness.Table("figures", "A title", harness.Options(toy=True))
    toy.add(seconds=1234.5)
    toy.note("an [odd] note")
    assert toy.save() is None
    toy.show()
    printed = capsys.readouterr().out
    assert "TOY SIZE" in printed
    assert "1,234" in printed
    assert "an [odd] note" in printed


@pytest.mark.parametrize(("busy", "warned"), [(0.05, False), (0.6, True)])
def test_a_busy_machine_is_told(table, tmp_path, capsys, busy, warned):
    table.environment["cpu_busy"] = busy
    table.add(seconds=1.0)
    table.show()
    saved = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert bool(saved["warnings"]) is warned
    assert ("kept 60% of the CPU busy" in capsys.readouterr().out) is warned


def test_many_columns_stand_upright_on_a_narrow_terminal(table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    table.add(**{f"a column with a name {number}": number + 1000 for number in range(9)})
    table.show()
    lines = capsys.readouterr().out.splitlines()
    assert any("a column with a name 8" in line and "1,008" in line for line in lines)


def test_the_record_of_the_machine_names_neither_host_nor_user():
    record = harness.environment()
    assert record["cores"] >= 1
    assert record["memory_bytes"] > 1e8
    assert 0 <= record["cpu_busy"] <= 1
    assert len(record["load_average"]) == 3
    assert not {"host", "hostname", "user", "path"} & set(record)


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1).flatmap(
        lambda values: st.tuples(st.just(values), st.permutations(values))
    )
)
def test_the_median_does_not_depend_on_order(values):
    ordered, shuffled = values
    found = harness.median(ordered)
    assert found == harness.median(shuffled)
    assert sum(value <= found for value in ordered) >= len(ordered) / 2
    assert sum(value >= found for value in ordered) >= len(ordered) / 2


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_a_median_of_nothing_or_of_broken_figures_is_refused(values):
    with pytest.raises(ValueError, match="median"):
        harness.median(values)


def test_a_round_leaves_out_compilation_evaluation_and_the_first_rounds():
    timings = pd.DataFrame(
        {
            "seconds": [9.0, 5.0, 4.0],
            "compile_seconds": [6.0, 0.5, 0.0],
            "eval_seconds": [1.0, 1.5, 1.0],
        }
    )
    np.testing.assert_allclose(harness.round_seconds(timings, skip=1), [3.0, 3.0])
    with pytest.raises(ValueError, match="leave none"):
        harness.round_seconds(timings, skip=3)


def test_metrics_are_the_test_rows_of_the_asked_round():
    history = pd.DataFrame(
        {
            "round": [1, 1, 2, 2],
            "split": ["val", "test", "val", "test"],
            "hr@10/uni99": [0.1, 0.2, 0.3, 0.4],
        }
    )
    assert harness.metrics_at(history)["hr@10/uni99"] == 0.4
    assert harness.metrics_at(history, 1)["hr@10/uni99"] == 0.2
    with pytest.raises(ValueError, match="round 3"):
        harness.metrics_at(history, 3)


def test_a_users_mistake_is_one_line_and_status_2(capsys, monkeypatch):
    def fail(options):
        raise InputError("no such data: do this")

    # The number of host devices can no longer be set once a test has used JAX.
    monkeypatch.setattr(harness.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--toy"])
    with pytest.raises(SystemExit) as ended:
        harness.main(harness.Options, fail, "about")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such data: do this\n"
