"""`load_dataset`: a name or a path in, a dataset out, downloaded where it has to be."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pooch

from fedjax_rec.data.archives import extract
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.download import fetch, sha256_of, to_stderr
from fedjax_rec.data.known import KNOWN_DATASETS, KnownDataset
from fedjax_rec.data.options import check_options, did_you_mean
from fedjax_rec.data.readers import read_dataset
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.errors import InputError

__all__ = ["cache_folder", "load_dataset", "locate"]


def load_dataset(
    name_or_path: str | Path = "synthetic",
    *,
    download: bool = True,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Dataset:
    """Loads a dataset.

    Args:
      name_or_path: ``"synthetic"`` (made up on the spot, needs nothing); a known dataset, which
        is looked for under ``$FEDJAX_REC_DATA``, then in the cache, and else downloaded; or the
        path of a file, a folder or an archive. A known name comes before a file of that name:
        write ``./ml-100k`` for the folder.
      download: whether a known dataset may be downloaded.
      say: takes each line for the user (licence, warnings); None writes to stderr.
      **options: of `synthetic`, or of the reader (see `read_dataset`).

    Returns:
      The dataset.

    Raises:
      InputError: an unknown name or option, a failed download, or bad contents.

    Example:
      >>> load_dataset("synthetic", users=50, items=40, interactions_per_user=8).num_items
      40
    """
    name = os.fspath(name_or_path)
    if name == "synthetic":
        check_options(options, inspect.signature(synthetic), what="the synthetic dataset")
        return synthetic(**options)
    if name in KNOWN_DATASETS and not isinstance(name_or_path, Path):
        return _load_known(KNOWN_DATASETS[name], download, say or to_stderr, options)
    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return read_dataset(path, **options)
    names = ["synthetic", *KNOWN_DATASETS]
    raise InputError(
        f"{name!r} is no dataset known here{did_you_mean(name, names)}, nor a file or folder; take "
        f"a path, or one of {', '.join(names)}"
    )


def locate(
    name: str, *, download: bool = True, say: Callable[[str], None] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Finds the file of a known dataset, downloading it where it is not at hand.

    Args:
      name: a name of `KNOWN_DATASETS`.
      download: whether it may be downloaded.
      say: as in `load_dataset`.

    Returns:
      The file of interactions, and notes: a file under ``$FEDJAX_REC_DATA`` with another
      checksum than the one that the project's figures come from is used, and noted.

    Raises:
      InputError: an unknown name; not at hand and not to be downloaded; a failed download.
    """
    if name not in KNOWN_DATASETS:
        raise InputError(
            f"{name!r} is no dataset known here{did_you_mean(name, KNOWN_DATASETS)}; take one of "
            f"{', '.join(KNOWN_DATASETS)}"
        )
    known = KNOWN_DATASETS[name]
    supplied = _supplied(known.path)
    if supplied is not None:
        if known.file_sha256 is not None and sha256_of(supplied) != known.file_sha256:
            return supplied, (
                f"{supplied.name}: not the usual file of {name} (its SHA-256 differs), so figures "
                "may differ too",
            )
        return supplied, ()
    if known.urls:
        cached = cache_folder() / known.name
        if cached.is_dir():
            return cached / known.member, ()
        if download:
            return _download(known, cached, say or to_stderr), ()
        raise InputError(
            f"{name}: not at hand; allow the download, or put it at $FEDJAX_REC_DATA/{known.path}"
        )
    raise InputError(
        f"{name}: not at hand, and there is no archive of it to download; put the file at "
        f"$FEDJAX_REC_DATA/{known.path} (see {known.homepage})"
    )


def cache_folder() -> Path:
    """Where downloads are kept: ``$FEDJAX_REC_CACHE``, or the system's usual cache folder."""
    own = os.environ.get("FEDJAX_REC_CACHE")
    return Path(own) if own else Path(pooch.os_cache("fedjax-rec"))


def _load_known(
    known: KnownDataset, download: bool, say: Callable[[str], None], options: dict[str, Any]
) -> Dataset:
    path, notes = locate(known.name, download=download, say=say)
    if path.suffix == ".npz":
        titles = None if known.titles is None else _supplied(known.titles)
        options = {"first_id": known.first_id, "titles": titles, **options}
    dataset = read_dataset(path, **options)
    return replace(dataset, name=known.name, notes=notes + dataset.notes)


def _supplied(relative: str) -> Path | None:
    """A file under ``$FEDJAX_REC_DATA``, or None."""
    root = os.environ.get("FEDJAX_REC_DATA")
    path = Path(root or ".") / relative
    return path if root and path.is_file() else None


def _download(known: KnownDataset, folder: Path, say: Callable[[str], None]) -> Path:
    say(f"{known.name}: {known.licence} ({known.homepage})")
    archive = folder.with_name(Path(known.urls[0]).name)
    fetch(known.urls, archive, sha256=known.archive_sha256, say=say)

    def check(unpacked: Path) -> None:
        member = unpacked / known.member
        if not member.is_file():
            raise InputError(f"{archive}: no {known.member} in it; delete it and try again")
        if known.file_sha256 is not None and sha256_of(member) != known.file_sha256:
            raise InputError(
                f"{archive}: {known.member} has the wrong SHA-256; delete it and try again"
            )

    extract(archive, folder, check=check)
    archive.unlink(missing_ok=True)
    return folder / known.member
