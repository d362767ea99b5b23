"""`load_dataset`: supplied, cached or downloaded; a name that is none; the registry itself."""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fedjax_rec.data import KNOWN_DATASETS, KnownDataset, load_dataset, loading, locate
from fedjax_rec.errors import InputError
from tests.data.servers import Files, serve

LINES = b"1\t7\t5\t10\n1\t8\t5\t11\n2\t7\t5\t12\n"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Own data and cache folders, so that no test meets the user's."""
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path / "supplied"))
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def archive(lines: bytes = LINES, name: str = "ml-100k/u.data") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(name, lines)
        packed.writestr("ml-100k/u.item", "7|Up (2009)|\n8|M (1931)|\n")
    return buffer.getvalue()


def served(monkeypatch: pytest.MonkeyPatch, files: Files, **changes: object) -> KnownDataset:
    """Points ml-100k at the local server."""
    known = replace(
        KNOWN_DATASETS["ml-100k"],
        urls=(f"{files.url}/ml-100k.zip",),
        archive_sha256=hashlib.sha256(files.content["/ml-100k.zip"]).hexdigest(),
        file_sha256=hashlib.sha256(LINES).hexdigest(),
    )
    known = replace(known, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(loading, "KNOWN_DATASETS", {**KNOWN_DATASETS, "ml-100k": known})
    return known


def test_downloaded_once_with_the_licence_shown(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with serve(Files({"/ml-100k.zip": archive()})) as files:
        served(monkeypatch, files)
        with pytest.raises(InputError, match="not at hand; allow the download"):
            load_dataset("ml-100k", download=False)
        for _ in range(2):
            dataset = load_dataset("ml-100k", say=said.append)
        assert len(files.requests) == 1
    assert dataset.name == "ml-100k"
    assert dataset.num_interactions == 3
    assert dataset.item_titles is not None
    assert dataset.item_titles.tolist() == ["Up (2009)", "M (1931)"]
    assert len(said) == 1
    assert "no redistribution" in said[0]
    assert [p.name for p in (folders / "cache").iterdir()] == ["ml-100k"]
    load_dataset("ml-100k", download=False)


def test_the_unpacked_file_is_checked_too(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, message in (
        (archive(LINES + b"3\t7\t1\t1\n"), "wrong SHA-256"),
        (archive(name="other/u.data"), r"no ml-100k/u\.data in it"),
    ):
        with serve(Files({"/ml-100k.zip": content})) as files:
            served(monkeypatch, files)
            with pytest.raises(InputError, match=message):
                load_dataset("ml-100k", say=lambda line: None)
        assert not (folders / "cache" / "ml-100k").exists()


def test_a_climbing_archive_is_refused(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Files({"/ml-100k.zip": archive(name="../../u.data")})) as files:
        served(monkeypatch, files)
        with pytest.raises(InputError, match="climbs out"):
            load_dataset("ml-100k", say=lambda line: None)
    assert not list(folders.rglob("u.data"))


def test_supplied_data_come_first(folders: Path) -> None:
    path = folders / "supplied" / "ml-100k" / "u.data"
    path.parent.mkdir(parents=True)
    path.write_bytes(LINES)
    dataset = load_dataset("ml-100k", download=False)
    assert dataset.num_interactions == 3
    assert dataset.name == "ml-100k"
    assert "its SHA-256 differs" in dataset.notes[0]
    assert load_dataset("ml-100k", duplicates="last").num_interactions == 3
    with pytest.raises(InputError, match="duplicate= is no option"):
        load_dataset("ml-100k", duplicate="last")


def test_what_cannot_be_downloaded_says_where_to_put_it() -> None:
    with pytest.raises(InputError, match=r"put the file at \$FEDJAX_REC_DATA/amazon/ratings\.dat"):
        load_dataset("amazon")


def test_names_and_paths(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'ml100k' is no dataset .*did you mean ml-100k.*amazon"):
        load_dataset("ml100k")
    with pytest.raises(InputError, match=r"did you mean ml-1m"):
        locate("ml-1mm")
    with pytest.raises(InputError, match="no such file or folder"):
        load_dataset("nowhere/a.csv")
    with pytest.raises(InputError, match="no such file or folder"):
        load_dataset(Path("a.csv"))
    monkeypatch.chdir(folders)
    (folders / "mine").mkdir()
    (folders / "mine" / "u.data").write_bytes(LINES)
    assert load_dataset("mine").num_interactions == 3
    assert load_dataset(folders / "mine" / "u.data").name == "u"


def test_the_registry_is_whole() -> None:
    for name, known in KNOWN_DATASETS.items():
        assert known.name == name
        assert set(known.splits) <= {"loo", "ratio"}
        assert known.licence
        assert "\n" not in known.licence
        # What is downloaded is checked, and what is checked can be found in its archive.
        assert bool(known.urls) == bool(known.archive_sha256) == bool(known.member)
        assert all(url.startswith("https://") for url in known.urls)


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in KNOWN_DATASETS if name != "ml-1m"])
def test_real_ones(name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJAX_REC_DATA", str(data_dir))
    known = KNOWN_DATASETS[name]
    dataset = load_dataset(name, download=False)
    assert dataset.name == name
    assert dataset.notes == ()
    assert (dataset.num_users, dataset.num_items) == (known.users, known.items)
    assert dataset.num_interactions == known.interactions
    assert (dataset.timestamp is not None) == ("loo" in known.splits)
    if name.startswith("ml-100k-ratio"):
        assert dataset.item_ids[0] == "1"
        assert dataset.item_titles is not None
        assert dataset.item_titles[0] == "Toy Story (1995)"
