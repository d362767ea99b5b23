"""Downloads against a local server: whole and checked, or not there at all; resumed, mirrored."""

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.data.download import fetch
from fedjax_rec.errors import InputError
from tests.data.servers import Files, serve

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def files() -> Iterator[Files]:
    with serve(Files({"/a.bin": BODY})) as files:
        yield files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "a.bin"


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def test_whole_and_only_once(files: Files, path: Path) -> None:
    for _ in range(2):
        assert fetch([f"{files.url}/a.bin"], path, sha256=SHA256) == path
    assert path.read_bytes() == BODY
    assert files.requests == [("/a.bin", None)]
    assert names(path) == ["a.bin"]


def test_a_broken_transfer_is_continued_within_the_call(files: Files, path: Path) -> None:
    files.cut = [100_000, 50_000]
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY
    assert [asked for _, asked in files.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert names(path) == ["a.bin"]


def test_a_truncated_download_never_counts_and_the_next_call_continues(
    files: Files, path: Path
) -> None:
    files.cut = [120_000]
    with pytest.raises(InputError, match="broke off after 120,000 of 300,000 bytes") as caught:
        fetch([f"{files.url}/a.bin"], path, sha256=SHA256, attempts=1)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert names(path) == ["a.bin.part", "a.bin.part.json"]
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY
    assert files.requests[-1] == ("/a.bin", "bytes=120000-")
    assert names(path) == ["a.bin"]


def test_truncated_without_a_length(files: Files, path: Path) -> None:
    files.chunked, files.cut = True, [120_000]
    with pytest.raises(InputError, match="broke off"):
        fetch([f"{files.url}/a.bin"], path, sha256=None, attempts=1)
    assert not path.exists()
    fetch([f"{files.url}/a.bin"], path, sha256=None, say=lambda line: None)
    assert path.read_bytes() == BODY


def test_a_changed_file_is_not_glued_to_the_old_part(files: Files, path: Path) -> None:
    files.cut = [120_000]
    with pytest.raises(InputError):
        fetch([f"{files.url}/a.bin"], path, sha256=None, attempts=1)
    files.content["/a.bin"], files.etag = BODY[::-1], '"v2"'
    fetch([f"{files.url}/a.bin"], path, sha256=None, say=lambda line: None)
    assert path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_without_a_strong_validator_it_begins_anew(files: Files, path: Path, etag: str) -> None:
    files.etag, files.cut = etag, [120_000]
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert [asked for _, asked in files.requests] == [None, None]
    assert path.read_bytes() == BODY


def test_a_server_without_ranges_is_read_from_the_start(files: Files, path: Path) -> None:
    files.ranges, files.cut = False, [120_000]
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY


def leave_part(path: Path, url: str, body: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("a.bin.part").write_bytes(body)
    record = {"url": url, "validator": '"v1"'}
    path.with_name("a.bin.part.json").write_text(json.dumps(record))


def test_killed_between_the_last_byte_and_the_name(files: Files, path: Path) -> None:
    leave_part(path, f"{files.url}/a.bin", BODY)
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY
    assert names(path) == ["a.bin"]


def test_a_part_longer_than_the_file_is_discarded(files: Files, path: Path) -> None:
    leave_part(path, f"{files.url}/a.bin", BODY + b"more")
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY


def test_a_damaged_part_fails_the_checksum_and_the_next_call_succeeds(
    files: Files, path: Path
) -> None:
    leave_part(path, f"{files.url}/a.bin", b"x" * 1000)
    with pytest.raises(InputError, match=f"SHA-256 is not {SHA256}"):
        fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert names(path) == []
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY


def test_wrong_checksum(files: Files, path: Path) -> None:
    with pytest.raises(InputError, match="SHA-256 is not 0000"):
        fetch([f"{files.url}/a.bin"], path, sha256="0" * 64)
    assert names(path) == []


def test_a_file_that_has_rotted_is_fetched_again(files: Files, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"rotten")
    fetch([f"{files.url}/a.bin"], path, sha256=SHA256)
    assert path.read_bytes() == BODY


def test_mirrors(files: Files, path: Path) -> None:
    files.content["/wrong.bin"] = b"something else"
    urls = [f"{files.url}/{name}.bin" for name in ("gone", "wrong", "a")]
    fetch(urls, path, sha256=SHA256)
    assert path.read_bytes() == BODY
    assert [name for name, _ in files.requests] == ["/gone.bin", "/wrong.bin", "/a.bin"]
    with pytest.raises(InputError, match=r"gone\.bin: HTTP 404 .*; .*wrong\.bin: .*SHA-256"):
        fetch(urls[:2], path.with_name("b.bin"), sha256=SHA256)


def test_offline_says_what_to_do(path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = r"a\.bin: could not be downloaded .*cannot be reached.*\$FEDJAX_REC_DATA"
    with pytest.raises(InputError, match=message):
        fetch([f"http://127.0.0.1:{port}/a.bin"], path, sha256=SHA256)
    assert names(path) == []
    with pytest.raises(InputError, match="no address is known"):
        fetch([], path, sha256=SHA256)


def test_only_http(tmp_path: Path, path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    with pytest.raises(InputError, match="not an http address"):
        fetch([f"file://{tmp_path}/secret"], path, sha256=None)


def test_a_folder_that_cannot_be_written(files: Files, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written.*FEDJAX_REC_CACHE"):
        fetch([f"{files.url}/a.bin"], tmp_path / "cache" / "a.bin", sha256=SHA256)


def test_an_unknown_checksum_is_said(files: Files, path: Path) -> None:
    said: list[str] = []
    fetch([f"{files.url}/a.bin"], path, sha256=None, say=said.append)
    assert said == [f"a.bin: no checksum is known for it; got sha256 {SHA256}"]
