import json
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.reports.runs import display_names, load_run

from .fakes import write_lines, write_run


def _message(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run_reads_back(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", label="CGFedRec", rounds=6))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run.finished
    assert run.notes == ()
    assert (run.method, run.label, run.dataset) == ("cgfedrec", "CGFedRec", "ml-100k")
    assert (run.rounds_done, run.rounds_planned) == (6, 6)
    assert run.best_round == summary["best_round"]
    assert run.test == summary["test"]
    assert run.embeddings is not None
    assert run.embeddings.vectors.shape == (300, 32)
    # 60 clusters need 6 bits an item; the first round, without labels, does not count.
    assert run.per_client_bytes("downlink") == 300 * 6 / 8


@pytest.mark.parametrize("split", ["loo", "ratio"])
def test_an_interrupted_run_comes_to_what_the_engine_would_have_written(
    tmp_path: Path, split: str
) -> None:
    finished = load_run(write_run(tmp_path / "a", rounds=9, split=split))
    cut = load_run(write_run(tmp_path / "b", rounds=9, split=split, finished=False))
    assert not cut.finished
    assert cut.best_round == finished.best_round
    assert cut.selection == finished.selection
    assert cut.test == pytest.approx(finished.test)
    for key in ("uplink_bytes_total", "downlink_bytes_total", "wall_seconds", "eval_seconds"):
        assert cut.total(key) == pytest.approx(finished.total(key))
    # How the engine averages this is not in the metrics, so it is unknown rather than guessed.
    assert cut.total("clients_per_second") is None
    assert any("unfinished" in note for note in cut.notes)


def test_the_earliest_round_wins_a_tie_and_a_round_without_its_test_line_is_out(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", rounds=4, finished=False)
    rows = _rows(folder)
    for row in rows:
        row["hr@10/uni99"] = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.9}[row["round"]]
    write_lines(
        folder / "metrics.jsonl", [r for r in rows if (r["round"], r["split"]) != (4, "test")]
    )
    assert load_run(folder).best_round == 2


def test_a_torn_last_line_is_forgiven_only_in_an_interrupted_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=3, finished=False)
    file = folder / "metrics.jsonl"
    file.write_text(file.read_text()[:-20])
    run = load_run(folder)
    assert len(run.history) == 5
    assert any("line 6 was cut off" in note for note in run.notes)
    (folder / "summary.json").write_text("{}")
    assert "metrics.jsonl:6: not valid JSON" in _message(folder)


def test_unknown_keys_and_missing_optional_ones_pass(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=2)
    rows = _rows(folder)
    for row in rows:
        row["epsilon"] = 1.5
        row["somebody's idea"] = {"a": [1]}
        del row["uplink_bytes"], row["host_seconds"]
    write_lines(folder / "metrics.jsonl", rows)
    run = load_run(folder)
    assert run.per_client_bytes("uplink") is None
    assert list(run.history["epsilon"]) == [1.5] * 4


def test_what_is_not_a_run_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such folder" in _message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "not a run folder" in _message(tmp_path / "empty")
    folder = write_run(tmp_path / "run", rounds=2)
    (folder / "metrics.jsonl").write_text("")
    assert "no evaluated round yet" in _message(folder)
    (folder / "metrics.jsonl").unlink()
    assert "--resume" in _message(folder)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"split": "val"}', "'round' is missing"),
        ('{"round": true, "split": "val"}', "'round' is missing"),
        ('{"round": 1, "split": "train"}', "'split' is 'train'"),
        ('{"round": 1, "split": "val", "hr@10/uni99": "high"}', "'hr@10/uni99' is 'high'"),
        ('{"round": 1, "split": "val", "seconds": [1]}', "'seconds' is [1]"),
        ('{"round": 1, "split": "val", "modularity": "good"}', "'modularity' is 'good'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    folder = write_run(tmp_path / "run", rounds=2)
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines.insert(2, line)
    file.write_text("\n".join(lines) + "\n")
    message = _message(folder)
    assert "metrics.jsonl:3: " in message
    assert complaint in message


def test_a_round_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=2)
    write_lines(folder / "metrics.jsonl", [*_rows(folder), _rows(folder)[0]])
    assert "round 1 (val) occurs twice" in _message(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": None}, "key 'method'"),
        ({"run": []}, "key 'run'"),
        ({"run": {"protocol": "honest", "split": "loo"}}, "'run.protocol' is 'honest'"),
        ({"run": {"protocol": "published", "split": "x"}}, "'run.split' is 'x'"),
        ({"data": 3}, "key 'data'"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, change: dict, complaint: str) -> None:
    message = _message(write_run(tmp_path / "run", rounds=2, config=change))
    assert "config.json" in message
    assert complaint in message


def test_broken_json_files_name_their_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=2)
    (folder / "summary.json").write_text('{\n"best_round": oops}')
    assert "summary.json:2: not valid JSON" in _message(folder)
    (folder / "summary.json").write_text('{"best_round": 1, "selection": "x"}')
    assert "key 'test'" in _message(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe")
    assert "config.json: cannot be read" in _message(folder)


def test_broken_embeddings_are_refused_and_pickles_stay_shut(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=2)
    file = folder / "embeddings.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert "embeddings.npz: cannot be read" in _message(folder)
    np.savez(file, item_embeddings=np.array([{"a": 1}], dtype=object))
    assert "embeddings.npz: cannot be read" in _message(folder)
    np.savez(file, item_embeddings=np.zeros((3, 2), np.float32), labels=np.zeros(4, np.int32))
    assert "'labels' has shape (4,), expected (3,)" in _message(folder)
    np.savez(file, labels=np.zeros(4, np.int32))
    assert "'item_embeddings' is missing" in _message(folder)


def test_equal_labels_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def names(*options: dict) -> list[str]:
        folders = [
            write_run(tmp_path / f"{len(list(tmp_path.iterdir()))}", "local", rounds=2, **option)
            for option in options
        ]
        return display_names([load_run(folder) for folder in folders])

    assert names({}, {"label": "alone"}) == ["local", "alone"]
    assert names({}, {"protocol": "published"}) == ["local · leak-free", "local · published"]
    assert names({"seed": 1}, {"seed": 2}) == ["local · seed 1", "local · seed 2"]
    run = load_run(write_run(tmp_path / "same", rounds=2))
    assert display_names([run, run]) == ["cgfedrec · #1", "cgfedrec · #2"]
