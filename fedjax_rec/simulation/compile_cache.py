"""Compiled programs kept on the disk, so that the next run of the same shapes need not compile."""

from __future__ import annotations

import os
import platform
import warnings
from pathlib import Path

import jax

from fedjax_rec.errors import InputError, RunWarning

__all__ = ["use_compile_cache"]

_MOST_BYTES = 2 << 30
_OFF = "off"


def use_compile_cache(folder: str | Path | None = None) -> Path | None:
    """Lets JAX keep and find what it compiles in a folder. To be called before JAX compiles.

    Args:
      folder: where; "off": nowhere; None: where JAX's own ``JAX_COMPILATION_CACHE_DIR`` says, which
        stays as it is set, else the user's cache folder (``~/.cache/fedjax_rec/compiled/HOST`` on
        Linux), where the least used programs go once there are 2 GB of them. By host, since what is
        compiled for one CPU may not run on another that shares the home.

    Returns:
      The folder, or None where nothing is kept.

    Raises:
      InputError: a named folder that cannot be written.
    """
    if folder == _OFF:
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    told = jax.config.values["jax_compilation_cache_dir"]
    if folder is None and told is not None:
        return Path(told)
    named = folder is not None
    target = Path(folder) if folder is not None else _users_own()
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        what = f"cannot keep compiled programs in {target}: {error.strerror}"
        if named:
            raise InputError(f"{what}; name another --compile-cache, or off") from error
        warnings.warn(f"{what}; --compile-cache names another folder", RunWarning, stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", str(target))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # JAX keeps what took a second by default; a run's programs are many that take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return target


def _users_own():
    import platformdirs

    host = platform.node() or "host"
    return platformdirs.user_cache_path("fedjax_rec", appauthor=False) / "compiled" / host
