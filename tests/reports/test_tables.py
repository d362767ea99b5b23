import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fedjax_rec
from fedjax_rec.reports import Run, comparison_frame, comparison_table, load_run
from fedjax_rec.reports.tables import comparison_cells

from .fakes import write_run


def _printed(runs: list[Run], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_table(runs))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def three(tmp_path: Path) -> list[Run]:
    return [
        load_run(write_run(tmp_path / method, method, rounds=12, embeddings=False))
        for method in ("cgfedrec", "pfedrec", "local")
    ]


def test_a_run_s_table_does_not_wait_for_the_libraries_of_pages() -> None:
    """They take seconds to import, at the end of every trial of a sweep."""
    libraries = "'matplotlib', 'sklearn', 'scipy.stats', 'jinja2', 'igraph', 'leidenalg'"
    code = (
        "import sys, fedjax_rec.cli.running; from fedjax_rec.reports import comparison_table; "
        f"print([name for name in ({libraries}) if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_terminal_table_fits_eighty_columns_and_states_chance(three: list[Run]) -> None:
    text = _printed(three)
    assert max(map(len, text.splitlines())) <= 80
    assert "chance is 10.0 HR@10 and 4.5 NDCG@10" in " ".join(text.split())
    assert "leak-free protocol" in text
    row = next(line for line in text.splitlines() if line.startswith("pfedrec")).split()
    assert row[2] == f"{100 * three[1].test['hr@10/uni99']:.1f}"
    assert row[6:10] == ["38.4", "kB", "38.4", "kB"]


def test_the_best_of_each_column_is_marked_and_silence_is_no_merit(three: list[Run]) -> None:
    columns = {(c.header, c.subheader): c for c in comparison_cells(three)}
    assert columns["HR@10", "uni99 %"].best == (False, True, False)
    assert columns["received", "/round"].best == (True, False, False)
    # Both senders send the same: nobody is best. Local sends nothing and does not compete.
    assert columns["sent", "/round"].best == (False, False, False)
    assert columns["sent", "/round"].cells[2] == "0 B"


def test_runs_are_judged_only_against_runs_of_their_own_protocol(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / f"{method}-{protocol}", method, rounds=5, protocol=protocol))
        for method in ("pfedrec", "local")
        for protocol in ("leak-free", "published")
    ]
    columns = {(c.header, c.subheader): c for c in comparison_cells(runs)}
    assert columns["protocol", ""].cells == ("leak-free", "published") * 2
    best = columns["HR@10", "uni99 %"].best
    assert best[0]
    assert not best[2]
    assert "inflated" in _printed(runs)
    assert not any(any(c.best) for c in comparison_cells(runs[1:3]))


def test_a_ratio_run_shows_recall_and_mrr_and_no_chance_level(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", rounds=3, split="ratio"))
    headers = [(c.header, c.subheader) for c in comparison_cells([run])]
    assert ("Recall@10", "full %") in headers
    assert ("MRR@10", "full %") in headers
    assert ("HR@10", "uni99 %") not in headers
    assert "chance" not in _printed([run])


def test_published_metrics_are_told_from_the_standard_ones(tmp_path: Path) -> None:
    result = fedjax_rec.simulate(
        fedjax_rec.methods.popularity(),
        fedjax_rec.load_dataset("synthetic", users=24, items=40, interactions_per_user=8),
        split="ratio",
        rounds=1,
        progress=False,
        out=tmp_path / "run",
    )
    run = load_run(tmp_path / "run")
    columns = {(c.header, c.subheader): c.cells for c in comparison_cells([run])}
    assert columns["NDCG@10", "full %"] != columns["NDCG@10", "full-published %"]
    for name in ("NDCG", "MRR"):
        value = result.summary["test"][f"{name.lower()}@10/full-published"]
        assert columns[f"{name}@10", "full-published %"] == (f"{100 * value:.1f}",)
    text = _printed([run])
    assert max(map(len, text.splitlines())) <= 80
    assert "as FedCIA's release does" in " ".join(text.split())
    frame = comparison_frame([run])
    for metric in ("precision@10/full", "f1@10/full", "mrr@10/full-published"):
        assert frame[metric].item() == result.summary["test"][metric]


def test_without_published_metrics_nothing_is_said_of_them(three: list[Run]) -> None:
    assert "published" not in _printed(three)


def test_a_label_is_no_markup_and_unfinished_is_said(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", label="[red]x[/red]", rounds=2, finished=False))
    text = _printed([run], width=120)
    assert "[red]x[/red] (unfinished)" in text


def test_the_frame_holds_unrounded_numbers(three: list[Run]) -> None:
    frame = comparison_frame(three)
    assert list(frame.index) == ["cgfedrec", "pfedrec", "local"]
    for run, (_, row) in zip(three, frame.iterrows(), strict=True):
        assert row["hr@10/uni99"] == run.test["hr@10/uni99"]
        assert row["best_round"] == run.best_round
        assert row["uplink_bytes_total"] == run.total("uplink_bytes_total")
    assert frame.loc["cgfedrec", "downlink_bytes"] == 225.0


def test_the_frame_has_nan_where_a_run_lacks_a_metric(tmp_path: Path) -> None:
    loo = load_run(write_run(tmp_path / "a", rounds=2))
    ratio = load_run(write_run(tmp_path / "b", "pfedrec", rounds=2, split="ratio"))
    frame = comparison_frame([loo, ratio])
    assert math.isnan(frame.loc["pfedrec", "hr@10/uni99"])
    assert frame["split"].tolist() == ["loo", "ratio"]
