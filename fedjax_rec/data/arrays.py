"""Arrays out of ``.npz`` archives and into them: named errors, nothing pickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["load_arrays", "write_arrays"]


def load_arrays(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, what: str
) -> dict[str, np.ndarray]:
    """Loads named arrays of an ``.npz`` archive. Pickled objects are never loaded.

    Args:
      path: the archive.
      required: names of arrays that it must have.
      optional: names of arrays that are loaded where it has them; others are left alone.
      what: how to call such an archive in a message ("an .npz of interactions").

    Returns:
      The arrays by name.

    Raises:
      InputError: no such file, no archive, truncated, pickled, or an array is missing.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: one array where an .npz archive is expected; use savez")
        with loaded as file:
            missing = [name for name in required if name not in file.files]
            if missing:
                raise InputError(
                    f"{path}: no array {missing[0]!r} in it (it has "
                    f"{', '.join(file.files) or 'none'}); {what} needs {', '.join(required)}"
                )
            return {name: file[name] for name in (*required, *optional) if name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(
            f"{path}: truncated or not an .npz archive ({error}); fetch or write it again"
        ) from None
    except ValueError as error:
        # A pickled array in an archive ends here, and whatever NumPy cannot tell from a bare
        # pickle: any other file named .npz.
        if "pickle" in str(error):
            held = "" if zipfile.is_zipfile(path) else "not an .npz archive, or one that "
            raise InputError(
                f"{path}: {held}holds pickled Python objects, which are never loaded since they "
                "can run code; save plain arrays of numbers or text with numpy.savez"
            ) from None
        raise InputError(f"{path}: unreadable ({error}); fetch or write it again") from None


def write_arrays(
    file: IO[bytes], arrays: Mapping[str, np.ndarray], *, compress: bool = False
) -> None:
    """Writes an ``.npz`` archive, which ``numpy.load`` reads.

    Not by ``numpy.savez``: before NumPy 2.2 it takes ``allow_pickle=False`` for one more array, and
    where writing fails, on a full disk say, it leaves the archive open, whose end is a traceback.

    Args:
      file: open for writing.
      arrays: by name.
      compress: smaller, and slower.

    Raises:
      OSError: it cannot be written.
      ValueError: an array of Python objects, which would have to be pickled.
    """
    compression = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            # Members may grow beyond 2 GB, and their size is not known before they are written.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
