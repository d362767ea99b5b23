"""``fedjax-rec report``: one run, several, an interrupted one."""

import pytest

from tests.cli.commands import TINY, here


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for method in ("popularity", "local"):
        arguments = ("--rounds", 1, "--quiet", "--no-report", "--out", folder / method)
        here("run", method, *TINY, *arguments)
    return folder


def test_of_one_run_goes_into_its_folder(runs, capsys):
    here("report", runs / "local")
    told = capsys.readouterr().out
    assert told.endswith(f"report: {runs / 'local' / 'report.html'}\n")
    assert (runs / "local" / "report.html").exists()


def test_of_several_compares_them(runs, tmp_path, capsys):
    page = tmp_path / "compare.html"
    here("report", runs / "local", runs / "popularity", "--out", page)
    told = capsys.readouterr().out
    lines = [line.split()[0] for line in told.splitlines() if line.strip()]
    assert {"local", "popularity"} <= set(lines)
    assert told.endswith(f"report: {page}\n")
    html = page.read_text()
    assert "local" in html
    assert "popularity" in html


def test_without_out_a_comparison_goes_into_the_current_folder(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here("report", runs / "local", runs / "popularity")
    assert capsys.readouterr().out.endswith("report: compare.html\n")
    assert (tmp_path / "compare.html").exists()


def test_of_an_unfinished_run(runs, capsys):
    (runs / "popularity" / "summary.json").unlink()
    here("report", runs / "popularity")
    assert "popularity" in capsys.readouterr().out
