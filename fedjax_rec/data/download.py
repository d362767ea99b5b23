"""Downloads that never count before they are complete and checked, and that resume.

pooch keeps a download in a temporary file, compares its SHA-256 and only then gives it its name.
It starts again from zero after a broken transfer, so the transfer itself is done here: into a
``.part`` file that the next attempt, or the next process, continues by an HTTP range request.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pooch

from fedjax_rec.errors import InputError

__all__ = ["ResumingDownloader", "fetch", "sha256_of", "to_stderr"]

_BLOCK = 1 << 20


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None,
    say: Callable[[str], None] | None = None,
    attempts: int = 3,
    timeout: float = 30.0,
) -> Path:
    """Downloads a file from the first mirror that delivers it whole.

    Args:
      urls: mirrors of the same file (http or https), in order of preference.
      path: where to put it. A file there with the right checksum is not downloaded again.
      sha256: the checksum, in hexadecimal; None where nobody knows it: then what was got is
        said, so that the user can compare.
      say: takes each line for the user; None writes to stderr.
      attempts: transfers tried per mirror, each continuing the one before.
      timeout: seconds without any data before an attempt is given up.

    Returns:
      ``path``.

    Raises:
      InputError: no mirror delivered, or the file cannot be written. What has arrived stays in
        ``path`` + ``.part`` and is continued by the next call.
    """
    say = say or to_stderr
    failures = []
    for url in urls:
        downloader = ResumingDownloader(
            path.with_name(path.name + ".part"), attempts=attempts, timeout=timeout
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(
                url,
                known_hash=None if sha256 is None else f"sha256:{sha256}",
                fname=path.name,
                path=path.parent,
                downloader=downloader,
            )
        except TransferError as error:
            failures.append(f"{url}: {error}")
        except ValueError:  # What pooch raises on a wrong checksum; the file is gone by then.
            failures.append(f"{url}: the file's SHA-256 is not {sha256}")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror or error}); make room, or set "
                "FEDJAX_REC_CACHE to a folder that can be written"
            ) from None
        else:
            if sha256 is None:
                say(f"{path.name}: no checksum is known for it; got sha256 {sha256_of(path)}")
            return path
    raise InputError(
        f"{path.name}: could not be downloaded ({'; '.join(failures) or 'no address is known'}); "
        "check the network and try again, or put the data under $FEDJAX_REC_DATA"
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_stderr(line: str) -> None:
    """Says one line to the user, apart from a program's output."""
    print(line, file=sys.stderr)


class TransferError(Exception):
    """A mirror did not deliver; the message says why, without the address."""


class ResumingDownloader:
    """Transfers a file over HTTP, continuing what an earlier attempt left (a pooch downloader).

    Beside ``part`` stands ``part`` + ``.json`` with the address and the validator (ETag or date)
    of the file that was begun. An attempt continues only that very file (``If-Range``);
    otherwise it begins anew, so parts of two versions never mix.

    Args:
      part: the partial file.
      attempts: transfers tried before giving up.
      timeout: seconds without any data before an attempt is given up.
    """

    def __init__(self, part: Path, *, attempts: int = 3, timeout: float = 30.0) -> None:
        self.part = part
        self.record = part.with_name(part.name + ".json")
        self.attempts = attempts
        self.timeout = timeout

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Transfers ``url`` into ``output_file``.

        Raises:
          TransferError: the server refuses, cannot be reached, or keeps breaking off.
          OSError: the file cannot be written.
        """
        if not url.startswith(("https://", "http://")):
            raise TransferError("not an http address")
        failure: TransferError | None = None
        for _ in range(self.attempts):
            try:
                self._attempt(url)
            except _Broken as error:
                failure = error
            else:
                os.replace(self.part, output_file)
                self._discard()
                return
        raise failure or TransferError("no attempt was allowed")

    def _attempt(self, url: str) -> None:
        have, validator = self._left_over(url)
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", validator)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                self._receive(url, response, have)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # Nothing left to send: the part was whole, or is not its own.
                if error.headers.get("Content-Range", "") == f"bytes */{have}":
                    return
                self._discard()
                raise _Broken("the server could not continue the transfer") from None
            if error.code >= 500:
                raise _Broken(f"HTTP {error.code} {error.reason}") from None
            raise TransferError(f"HTTP {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise _Broken(f"cannot be reached ({error.reason})") from None

    def _receive(self, url: str, response: Any, have: int) -> None:
        total: int | None
        if response.status == 206:
            match = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "")
            )
            if match is None or int(match[1]) != have:
                self._discard()
                raise _Broken("the server continued at another place")
            total = int(match[2])
        else:
            have = 0
            length = response.headers.get("Content-Length")
            total = None if length is None else int(length)
            self._begin(url, response.headers)
        with open(self.part, "ab" if have else "wb") as file:
            while True:
                try:
                    block = response.read(_BLOCK)
                except (http.client.HTTPException, OSError) as error:
                    # What did arrive of the block is lost; the rest of the part stays good.
                    raise _Broken(f"the transfer broke off ({error})") from None
                if not block:
                    break
                file.write(block)
        size = self.part.stat().st_size
        if total is not None and size != total:
            if size > total:  # Two processes at once, say: not to be continued.
                self._discard()
            raise _Broken(f"the transfer broke off after {size:,} of {total:,} bytes")

    def _left_over(self, url: str) -> tuple[int, str]:
        """Bytes at hand of this very file, and its validator; (0, "") to begin anew."""
        try:
            record = json.loads(self.record.read_text("utf-8"))
            size = self.part.stat().st_size
        except (OSError, ValueError):
            return 0, ""
        if record.get("url") != url or not record.get("validator"):
            return 0, ""
        return size, str(record["validator"])

    def _begin(self, url: str, headers: Any) -> None:
        etag = headers.get("ETag") or ""
        if etag.startswith("W/"):  # A weak one does not promise the same bytes.
            etag = ""
        self._discard()  # Never the new file's record beside the old file's bytes.
        validator = etag or headers.get("Last-Modified") or ""
        self.record.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


class _Broken(TransferError):
    """An attempt failed in a way that the next one may not."""
