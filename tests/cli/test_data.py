"""``fedjax-rec data``: list, info, get, synth."""

import pytest

from fedjax_rec.data import KNOWN_DATASETS
from tests.cli.commands import here, refused, rows


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDJAX_REC_DATA", raising=False)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))


def test_list_names_every_dataset(capsys):
    here("data", "list")
    told = capsys.readouterr().out
    for name in ("synthetic", *KNOWN_DATASETS):
        assert name in told


def test_info_of_the_synthetic_dataset(capsys):
    here("data", "info", "synthetic", "--data-options", "users=24", "items=80")
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert (told["users"], told["items"]) == ("24", "80")
    assert told["times"] == told["titles"] == told["genres"] == "yes"
    assert told["own split"] == "no"


def test_info_of_a_file(tmp_path, capsys):
    path = tmp_path / "some.csv"
    path.write_text("user,item\n" + "".join(f"u{i % 2},i{i}\n" for i in range(6)))
    here("data", "info", path)
    told = capsys.readouterr().out
    assert "users: 2\nitems: 6\ninteractions: 6 (density 50.00 %)\n" in told
    assert "times: no (use --split ratio)\ntitles: no\ngenres: no\n" in told


def test_get_of_an_unknown_dataset(capfd, no_data):
    message = refused(capfd, "data", "get", "ml-100")
    assert message.startswith("'ml-100' is no dataset known here (did you mean ml-100k?)")


def test_get_of_a_dataset_without_an_archive_says_where_to_put_it(capfd, no_data):
    message = refused(capfd, "data", "get", "amazon")
    assert "there is no archive of it to download" in message
    assert "$FEDJAX_REC_DATA/amazon/ratings.dat" in message


def test_get_of_a_dataset_at_hand_prints_its_path(tmp_path, monkeypatch, capsys):
    file = tmp_path / "ml-100k" / "u.data"
    file.parent.mkdir()
    file.write_text("1\t2\t3\t4\n")
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path))
    here("data", "get", "ml-100k")
    note, path = capsys.readouterr().out.splitlines()
    assert note.startswith("note: u.data: not the usual file of ml-100k")
    assert path == str(file)


def test_synth_writes_files_that_run_takes(tmp_path, capsys):
    path = tmp_path / "that.inter"
    here("data", "synth", path, "--users", 24, "--items", 40, "--interactions-per-user", 8)
    assert capsys.readouterr().out.splitlines() == [str(path), str(path.with_suffix(".item"))]
    out = tmp_path / "run"
    here("run", "popularity", "--data", path, "--rounds", 1, "--no-report", "--quiet", "--out", out)
    assert rows(out)[0]["clients"] == 24
    # The very dataset that is made on the spot, by way of a file.
    options = ("--data-options", "users=24", "items=40", "interactions_per_user=8")
    spot = tmp_path / "spot"
    here("run", "popularity", *options, "--rounds", 1, "--no-report", "--quiet", "--out", spot)
    assert rows(out)[0]["train_loss"] == rows(spot)[0]["train_loss"]


def test_synth_into_a_place_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").touch()
    message = refused(capfd, "data", "synth", tmp_path / "file" / "that.inter")
    assert str(tmp_path / "file") in message
