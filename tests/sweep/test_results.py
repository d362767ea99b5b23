"""The table of a sweep, its files and its figure."""

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from fedjax_rec.sweep.figure import main_axis, sweep_figure
from fedjax_rec.sweep.manifest import Entry
from fedjax_rec.sweep.results import axes_of, results_frame, results_table, write_frame
from fedjax_rec.sweep.trials import Trial
from tests.reports.fakes import write_run


def entry(folder: Path, method="pfedrec", status="finished", error="", split="loo", **axes):
    """A trial with its folder, as a sweep would leave them."""
    name = "_".join([method, *(f"{key}={value}" for key, value in axes.items())])
    trial = Trial(name, name, name, method, {"method": method, **axes}, (), 3, {})
    path = folder / "trials" / name
    if status == "finished":
        seed, clients = int(axes.get("seed", 0)), int(axes.get("clients", 943))
        write_run(
            path,
            method,
            rounds=3,
            seed=seed,
            clients=clients,
            items=20,
            clusters=4,
            dim=2,
            split=split,
        )
    return Entry(trial, path, status, error)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    grid = [(m, c, s) for m in ("pfedrec", "local") for c in (100, 1000) for s in (0, 1)]
    return [
        *(entry(folder, m, clients=c, seed=s) for m, c, s in grid),
        entry(folder, "local", "failed", "no [such] thing", clients=10_000, seed=0),
    ]


def test_the_frame_has_a_row_a_trial(entries):
    axes = axes_of(entries)
    assert axes == ["method", "clients", "seed"]
    frame = results_frame(entries)
    assert frame["trial"].tolist() == [e.folder.name for e in entries]
    assert frame["clients"].tolist() == [100, 100, 1000, 1000] * 2 + [10_000]
    assert frame["status"].tolist() == ["finished"] * 8 + ["failed"]
    assert frame["error"].tolist() == [""] * 8 + ["no [such] thing"]
    finished, failed = frame.iloc[:8], frame.iloc[8]
    assert (finished["num_clients"] == finished["clients"]).all()
    assert pd.isna(failed["hr@10/uni99"])
    summary = json.loads((entries[0].folder / "summary.json").read_text())
    first = frame.iloc[0]
    assert first["hr@10/uni99"] == summary["test"]["hr@10/uni99"]
    assert first["validation"] == summary["validation"]["hr@10/uni99"]
    seconds = summary["device_seconds"] + summary["host_seconds"]
    assert first["seconds_per_round"] == pytest.approx(seconds / 3)


def test_the_files_hold_the_frame(entries, tmp_path):
    frame = results_frame(entries)
    csv, parquet = write_frame(frame, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame)
    read = pd.read_csv(csv)
    assert read.columns.tolist() == frame.columns.tolist()
    assert read["hr@10/uni99"].iloc[0] == frame["hr@10/uni99"].iloc[0]
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.parquet"}


def test_options_of_numbers_and_words_or_of_one_method_only_can_be_stored(tmp_path):
    entries = [
        entry(tmp_path, "pfedrec", chunk=10, widths=(1, 2)),
        entry(tmp_path, "local", chunk="auto", clusters=4),
    ]
    frame = results_frame(entries)
    assert frame["chunk"].tolist() == ["10", "auto"]
    assert frame["widths"].iloc[0] == "1 2"
    assert frame["clusters"].iloc[1] == 4
    assert frame[["widths", "clusters"]].isna().to_numpy().tolist() == [
        [False, True],
        [True, False],
    ]
    _, parquet = write_frame(frame, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame)


def test_nothing_finished_is_a_table_too(tmp_path):
    entries = [entry(tmp_path, status="failed", error="x", clients=count) for count in (1, 2)]
    frame = results_frame(entries)
    write_frame(frame, tmp_path)
    assert "failed" in shown(results_table(frame, axes_of(entries)))
    assert sweep_figure(frame, axes_of(entries)) is None


def test_the_terminal_shows_what_varies_and_what_came_of_it(entries):
    frame = results_frame(entries)
    text = shown(results_table(frame, axes_of(entries)))
    lines = [line.split() for line in text.splitlines()]
    assert ["local", "10000", "0", "failed", *("–",) * 6] in lines
    (row,) = (line for line in lines if line[:3] == ["pfedrec", "1000", "1"])
    score = frame.set_index(["method", "clients", "seed"]).loc[("pfedrec", 1000, 1), "hr@10/uni99"]
    assert row[3] == "finished"
    assert row[5] == f"{100 * score:.1f}"


def test_the_main_axis_is_clients_or_else_the_number_with_most_values():
    frame = pd.DataFrame(
        {
            "clients": [1, 1, 2, 2],
            "lr": [0.1, 0.2, 0.3, 0.4],
            "dim": [8, 8, 16, 16],
            "seed": [0, 1, 2, 3],
            "gsa": [True, False, True, False],
            "method": list("abcd"),
        }
    )
    assert main_axis(frame, ["lr", "dim", "clients"]) == "clients"
    assert main_axis(frame, ["dim", "lr", "seed"]) == "lr"
    assert main_axis(frame, ["method", "gsa", "seed"]) is None


def test_a_line_for_each_combination_of_the_others_and_seeds_averaged(entries):
    frame = results_frame(entries)
    figure = sweep_figure(frame, axes_of(entries))
    score, seconds = figure.axes
    assert score.get_title(loc="left").startswith("HR@10")
    assert seconds.get_title(loc="left") == "Seconds a round"
    assert score.get_xscale() == seconds.get_xscale() == "log"  # 100 and 1000: a decade
    assert [label.get_text() for label in score.get_xticklabels()] == ["100", "1,000"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["pfedrec", "local"]
    lines = [line for line in score.lines if line.get_linestyle() != "None"]
    assert len(lines) == 2
    own = frame[(frame["method"] == "pfedrec") & (frame["clients"] == 100)]
    assert list(lines[0].get_xdata()) == [100, 1000]
    assert lines[0].get_ydata()[0] == pytest.approx(100 * own["hr@10/uni99"].mean())


def test_a_short_span_is_linear(tmp_path):
    entries = [entry(tmp_path, clients=count) for count in (100, 900)]
    figure = sweep_figure(results_frame(entries), axes_of(entries))
    assert figure.axes[0].get_xscale() == "linear"
    assert not figure.legends


def test_a_random_search_is_dots_without_lines(tmp_path):
    entries = [
        entry(tmp_path, lr=0.1 + n / 100, init=n / 7, dim=float(n), split="ratio")
        for n in range(15)
    ]
    figure = sweep_figure(results_frame(entries), axes_of(entries))
    assert figure.axes[0].get_title(loc="left").startswith("Recall@10")
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["None"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 15


def shown(table):
    text = StringIO()
    Console(width=120, file=text).print(table)
    return text.getvalue()
