"""Arrays out of an ``.npz`` archive that somebody else wrote: named errors, nothing unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["load_arrays"]


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
