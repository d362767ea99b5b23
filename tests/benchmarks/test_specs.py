"""The files of sweeps and comparisons under benchmarks/ hold options that their commands take."""

from pathlib import Path

import pytest

from fedjax_rec.cli.parser import parse_run
from fedjax_rec.compare.contestants import read_contestants
from fedjax_rec.sweep.spec import read_spec
from fedjax_rec.sweep.trials import Point, expand, make_trials

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMPARISONS = sorted((BENCHMARKS / "comparisons").glob("*.toml"))
SWEEPS = sorted((BENCHMARKS / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparisons(path) -> None:
    contestants = read_contestants(str(path))
    points = [Point(c.method, c.options, {"label": c.label}) for c in contestants]
    trials = make_trials(points, parse_run)
    assert len(trials) == len(contestants)  # no two are the same run
    command = next(line for line in path.read_text().splitlines() if "fedjax-rec compare" in line)
    assert f"benchmarks/comparisons/{path.name}" in command


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps(path) -> None:
    assert make_trials(expand(read_spec(path)), parse_run)
