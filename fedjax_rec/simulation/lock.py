"""One writer a folder: a lock that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedjax_rec.errors import InputError

__all__ = ["hold"]

_NAME = ".lock"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds a folder for this process.

    The lock is the system's (``flock`` on ``FOLDER/.lock``), so a holder that is killed leaves
    none behind. The file says who holds it, and stays: removing it would let two processes lock
    two files of one name.

    Args:
      folder: an existing folder.

    Raises:
      InputError: another process holds it, or it cannot be written.
    """
    path = folder / _NAME
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - errors of opening only
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; make {folder} writable, or name another --out"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"{folder} is in use by {holder}: wait until that ends, or name another --out"
            ) from None
        with suppress(OSError):  # a full disk: the lock holds, and the next one is told less
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
