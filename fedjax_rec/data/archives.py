"""Archives unpacked with care: nothing outside the folder, nothing half-written."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from fedjax_rec.errors import InputError

__all__ = ["extract", "is_archive"]

Member = tuple[str, bool, Callable[[], IO[bytes]]]
"""A member's name, whether it is a folder, and how to open it."""


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive that `extract` takes."""
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def extract(archive: Path, into: Path, *, check: Callable[[Path], None] | None = None) -> Path:
    """Unpacks an archive into a new folder, wholly or not at all.

    Every member is looked at before the first byte is written; then all goes into a temporary
    folder beside ``into``, which takes its name at the very end. A folder of that name therefore
    is complete, and is returned as it is.

    Args:
      archive: a zip or tar file (gzip, bzip2, xz).
      into: the folder to make.
      check: called with the temporary folder before it takes its name; may raise to refuse it.

    Returns:
      ``into``.

    Raises:
      InputError: a member would land outside the folder, or is a link or a device; the archive
        is damaged; the disk is full or may not be written.
    """
    if into.is_dir():
        return into
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    except OSError as error:
        raise InputError(f"{into}: cannot be made ({error.strerror}); choose another") from None
    try:
        with _members(archive) as members:
            targets = [(_target(archive, name), folder, opener) for name, folder, opener in members]
            for target, folder, opener in targets:
                path = work / target
                (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
                if not folder:
                    with opener() as source, open(path, "wb") as sink:
                        shutil.copyfileobj(source, sink)
        if check is not None:
            check(work)
        work.chmod(0o755)  # mkdtemp's 0700 would lock out others who share the cache.
        _take_name(work, into)
    except InputError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{archive}: damaged archive ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{archive}: cannot be unpacked into {into.parent} ({error})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return into


def _take_name(work: Path, into: Path) -> None:
    try:
        os.rename(work, into)
    except OSError:
        # Another process was faster; what it made is as complete as ours.
        if not into.is_dir():
            raise


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    """The members of a zip or tar file, links and devices refused."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield [_zip_member(archive, packed, info) for info in packed.infolist()]
    elif archive.is_file() and tarfile.is_tarfile(archive):
        with tarfile.open(archive) as unpacked:
            yield [_tar_member(archive, unpacked, info) for info in unpacked.getmembers()]
    else:
        raise InputError(f"{archive}: damaged, or neither zip nor tar; fetch it again")


def _zip_member(archive: Path, packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16  # Unix modes; 0 where the archive comes from elsewhere.
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(_refusal(archive, info.filename, "is a link or a device"))
    # orig_filename: ZipInfo itself hides what follows a NUL.
    return info.orig_filename, info.is_dir(), lambda: packed.open(info)


def _tar_member(archive: Path, unpacked: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if not (info.isreg() or info.isdir()):
        raise InputError(_refusal(archive, info.name, "is a link or a device"))

    def opener() -> IO[bytes]:
        source = unpacked.extractfile(info)
        assert source is not None  # A regular file, as checked above.
        return source

    return info.name, info.isdir(), opener


def _target(archive: Path, name: str) -> PurePosixPath:
    """Where a member lands, relative to the folder."""
    windows = PureWindowsPath(name)  # Knows "/", "\\" and drives, so also stops them on Linux.
    if windows.is_absolute() or windows.drive or windows.root or "\0" in name:
        raise InputError(_refusal(archive, name, "has an absolute path"))
    if ".." in windows.parts:
        raise InputError(_refusal(archive, name, "climbs out of its folder"))
    return PurePosixPath(*windows.parts)


def _refusal(archive: Path, name: str, what: str) -> str:
    return f"{archive}: the member {name!r} {what}; nothing was unpacked, get the archive elsewhere"
