"""Compiling the package's C++: once, kept by what it is made of, and refusals in one line."""

import shutil
import stat

import pytest

from fedjax_rec.cli import main
from fedjax_rec.errors import InputError
from fedjax_rec.native import build

HAS_COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of this test's own, and handlers that nobody has loaded."""
    monkeypatch.setattr(build, "_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(build.jax.ffi, "register_ffi_target", lambda *_, **__: None)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


def _load(source="codebook_cg.cc", symbol="CodebookCg"):
    return build.load.__wrapped__(source, symbol)


@HAS_COMPILER
@pytest.mark.slow
def test_it_is_compiled_once(folder, monkeypatch) -> None:
    assert _load() == "fedjax_rec_CodebookCg"
    (library,) = folder.iterdir()
    made = library.stat().st_mtime_ns
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    _load()
    assert library.stat().st_mtime_ns == made
    monkeypatch.undo()


def _program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(folder, tmp_path, monkeypatch) -> None:
    broken = _program(tmp_path / "broken", "echo 'ffi.h: no such thing' >&2; echo more >&2; exit 1")
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(
        InputError, match=r"cannot compile codebook_cg\.cc: ffi\.h: no such"
    ) as error:
        _load()
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


@HAS_COMPILER
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(build, "_folder", lambda: tmp_path / "file" / "native")
    with pytest.raises(
        InputError, match=r"cannot keep .*: Not a directory; .* --kernel xla"
    ) as error:
        _load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cxx", "says"), [("no-such-compiler", "CXX=no-such-compiler is not"), (None, "none was found")]
)
def test_without_a_compiler_a_run_is_refused_before_it_writes(
    tmp_path, monkeypatch, capsys, cxx, says
) -> None:
    monkeypatch.setattr(build, "load", build.load.__wrapped__)  # what other tests have loaded
    if cxx:
        monkeypatch.setenv("CXX", cxx)
    else:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(build.shutil, "which", lambda _: None)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["run", "fedmf", "--kernel", "native", "--rounds", "1", "--out", str(out)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "use --kernel xla" in said
    assert "\n" not in said
    assert not out.exists()
