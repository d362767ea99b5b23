"""Archives: unpacked whole or not at all, and never outside their folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedjax_rec.data.archives import extract
from fedjax_rec.errors import InputError


def make_zip(path: Path, members: dict[str, bytes], mode: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            if mode is not None:
                info.external_attr = mode << 16
            packed.writestr(info, data)
    return path


def make_tar(path: Path, name: str, **fields: object) -> Path:
    with tarfile.open(path, "w:gz") as unpacked:
        info = tarfile.TarInfo(name)
        info.size = 2
        for field, value in fields.items():
            setattr(info, field, value)
        unpacked.addfile(info, io.BytesIO(b"hi"))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpacks(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"in/": b"", "in/x.txt": b"hi", "y.txt": b"yo"})
    else:
        archive = make_tar(tmp_path / "a.tar.gz", "in/x.txt")
    into = extract(archive, tmp_path / "deep" / "out")
    assert (into / "in" / "x.txt").read_bytes() == b"hi"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    # A folder of that name is complete, so the archive is not looked at again.
    archive.write_bytes(b"rubbish")
    assert extract(archive, into) == into


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.txt", "climbs out"),
        ("in/../../evil.txt", "climbs out"),
        ("in\\..\\..\\evil.txt", "climbs out"),
        ("/evil.txt", "absolute path"),
        ("\\evil.txt", "absolute path"),
        ("C:\\evil.txt", "absolute path"),
        ("C:evil.txt", "absolute path"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_refuses_members_that_leave(tmp_path: Path, kind: str, name: str, message: str) -> None:
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"good.txt": b"hi", name: b"hi"})
    else:
        archive = make_tar(tmp_path / "a.tar.gz", name)
    with pytest.raises(InputError, match=message):
        extract(archive, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_refuses_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", "x", type=kind, linkname="/etc", size=0)
    with pytest.raises(InputError, match="is a link or a device"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_links_in_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"/etc"}, mode=0o120777)
    with pytest.raises(InputError, match="is a link or a device"):
        extract(archive, tmp_path / "out")


def test_damaged(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": bytes(1000)})
    whole = archive.read_bytes()
    for broken in (whole[:-30], whole[:60] + b"\xff" * 40 + whole[100:], b""):
        archive.write_bytes(broken)
        with pytest.raises(InputError, match="damaged"):
            extract(archive, tmp_path / "out")
    tar = make_tar(tmp_path / "a.tar.gz", "x")
    tar.write_bytes(tar.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged"):
        extract(tar, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_check_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"hi"})

    def check(folder: Path) -> None:
        assert (folder / "x").read_bytes() == b"hi"
        raise InputError("not this one")

    with pytest.raises(InputError, match="not this one"):
        extract(archive, tmp_path / "out", check=check)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"hi"})
    with pytest.raises(InputError, match="cannot be made"):
        extract(archive, archive / "out")
