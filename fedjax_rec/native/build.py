"""Compiles the package's C++ once for a machine, and hands it to XLA."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib.version

from fedjax_rec.errors import InputError

__all__ = ["load", "prepare", "require_compiler"]

# Not -ffast-math: not-a-number must stay one, or a diverged run would go on.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
_SHARED = ("-shared", "-fPIC", "-w")
_HANDLERS = (("mf_adam.cc", "MfAdam"), ("codebook_cg.cc", "CodebookCg"))


def require_compiler() -> str:
    """The C++ compiler to use: ``CXX``, or the first that is found.

    Raises:
      InputError: there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    wrong = f"CXX={named} is not to be found" if named else "none was found"
    raise InputError(
        f"--kernel native is C++ and needs a compiler, and {wrong}: install g++ or clang++ (or "
        "name one by the environment variable CXX), or use --kernel xla"
    )


def prepare() -> None:
    """Compiles and loads all there is: what can fail does so before a run has written anything.

    Raises:
      InputError: as ``load``.
    """
    for source, symbol in _HANDLERS:
        load(source, symbol)


@functools.cache
def load(source: str, symbol: str) -> str:
    """Compiles a source file of this folder, unless that was done before, and registers a handler.

    The library is kept in the user's cache folder, by what it was made of: source, flags, compiler,
    jaxlib and processor.

    Args:
      source: "mf_adam.cc".
      symbol: an XLA FFI handler that the source defines.

    Returns:
      The name for ``jax.ffi.ffi_call``.

    Raises:
      InputError: there is no compiler, or it fails, or the folder cannot be written.
    """
    text = (Path(__file__).parent / source).read_bytes()
    cxx = require_compiler()
    made_of = (*_FLAGS, cxx, jaxlib.version.__version__, platform.node(), platform.processor())
    key = hashlib.sha256(text + repr(made_of).encode()).hexdigest()[:16]
    library = _folder() / f"{Path(source).stem}-{key}.so"
    if not library.exists():
        try:
            _compile(cxx, source, library)
        except OSError as error:
            raise InputError(
                f"--kernel native cannot keep what it compiles in {library.parent}: "
                f"{error.strerror}; make room there, or use --kernel xla"
            ) from error
    handler = getattr(ctypes.CDLL(str(library)), symbol)
    name = f"fedjax_rec_{symbol}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def _compile(cxx: str, source: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [cxx, *_FLAGS, *_SHARED, f"-I{jax.ffi.include_dir()}"]
        command += [str(Path(__file__).parent / source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"{cxx} cannot compile {source}: {said}; name another compiler by the environment "
                "variable CXX, or use --kernel xla"
            )
        os.replace(made, library)  # two runs at once make the same file


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("fedjax_rec", appauthor=False) / "native"
