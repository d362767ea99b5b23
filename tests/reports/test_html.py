import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.reports.html import write_report

from .fakes import write_run

_VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class _Page(HTMLParser):
    """Collects tags and text, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def _report(tmp_path: Path, *folders: Path) -> tuple[Path, str]:
    out = write_report(folders, tmp_path / "out" / "report.html")
    return out, out.read_text(encoding="utf-8")


def test_the_report_is_self_contained_and_its_figures_lie_beside_it(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / method, method, rounds=4, items=60, clusters=5)
        for method in ("cgfedrec", "pfedrec", "local")
    ]
    out, text = _report(tmp_path, *folders)
    page = _Page(text)
    assert not re.search(r"(?:src|srcset|href)=\"(?!data:)", text)
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    beside = {file.read_bytes() for file in out.parent.glob("report-*.png")}
    assert {base64.b64decode(str(src).split(",")[1]) for src in images} == beside
    assert len(images) == len(beside) == 9
    assert sorted(file.suffix for file in out.parent.iterdir()) == [".html"] + [".png"] * 9
    assert "fedjax-rec run cgfedrec --data ml-100k --rounds 4" in page.text
    assert "2 users with fewer than 3 interactions were dropped" in page.text
    assert page.text.count("dropped") == 1
    assert "Leak-free:" in page.text
    assert "inflated" not in page.text
    assert "Compare with care" not in page.text


def test_published_figures_carry_a_visible_warning(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "local", rounds=2, protocol="published", items=30)
    page = _Page(_report(tmp_path, folder)[1])
    assert "These figures are inflated." in page.text
    assert "whole history" in page.text
    assert "Leak-free:" not in page.text
    assert ("div", {"class": "warning", "role": "note"}) in page.tags


def test_runs_of_different_protocols_are_said_to_be_incomparable(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / protocol, "local", rounds=2, protocol=protocol, items=30)
        for protocol in ("leak-free", "published")
    ]
    page = _Page(_report(tmp_path, *folders)[1])
    assert (
        "differ in protocol (leak-free, published). Their scores are not comparable." in page.text
    )


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    folder = write_run(
        tmp_path / "run",
        label=evil,
        dataset=evil,
        rounds=2,
        items=60,
        clusters=5,
        titles=[evil],
        config={"command": evil, "method_options": {evil: evil}, evil: evil},
    )
    page = _Page(_report(tmp_path, folder)[1])
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attrs for _, attrs in page.tags)
    # Title, headline, table, captions, configuration, command and cluster examples.
    assert page.text.count("alert('x')") >= 8


def test_an_unfinished_run_is_reported_as_such(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=3, items=30, clusters=5, finished=False)
    page = _Page(_report(tmp_path, folder)[1])
    assert "(unfinished)" in page.text
    assert "unfinished: no summary.json" in page.text


def test_a_command_given_as_a_list_is_quoted_for_a_shell(tmp_path: Path) -> None:
    command = ["fedjax-rec", "run", "local", "--out", "my runs/a"]
    folder = write_run(tmp_path / "run", "local", rounds=2, items=30, config={"command": command})
    page = _Page(_report(tmp_path, folder)[1])
    assert "fedjax-rec run local --out 'my runs/a'" in page.text


def test_no_absolute_path_of_the_machine_is_in_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=2, items=30, clusters=5)
    assert str(tmp_path) not in _report(tmp_path, folder)[1]


def test_a_folder_as_target_gets_report_html_and_a_second_report_replaces_the_first(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "run", "local", rounds=2, items=30)
    first = write_report([folder], folder)
    assert first == folder / "report.html"
    before = first.read_bytes()
    assert write_report([folder], folder).read_bytes() == before


def test_mistakes_are_one_line_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder given"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(InputError, match="no such folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    folder = write_run(tmp_path / "run", "local", rounds=2, items=30, embeddings=False)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_report([folder], tmp_path / "file" / "report.html")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_a_failure_while_writing_keeps_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", "local", rounds=2, items=30, embeddings=False)
    out = tmp_path / "out" / "report.html"
    write_report([folder], out)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report([folder], out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
