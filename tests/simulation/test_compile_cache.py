"""Where compiled programs are kept."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from fedjax_rec.errors import InputError, RunWarning
from fedjax_rec.simulation.compile_cache import use_compile_cache
from tests.cli.commands import TINY, process

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    """JAX's options as they were, afterwards."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_what_jax_was_told_stays(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    size = jax.config.values["jax_compilation_cache_max_size"]
    assert use_compile_cache() == tmp_path
    assert jax.config.values["jax_compilation_cache_max_size"] == size


def test_by_default_it_is_the_users_bounded_and_by_host(tmp_path: Path, monkeypatch) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platform.node", lambda: "here")
    folder = use_compile_cache()
    assert folder is not None
    assert folder.is_dir()
    assert folder.parts[-3:] == ("fedjax_rec", "compiled", "here")
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert jax.config.values["jax_compilation_cache_max_size"] == 2 << 30


def test_off_is_off_whatever_jax_was_told(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert use_compile_cache("off") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_named_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot keep compiled programs in .*/file/here: Not a"):
        use_compile_cache(tmp_path / "file" / "here")


def test_a_home_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RunWarning, match="--compile-cache names another folder"):
        assert use_compile_cache() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_has_compiled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = []
    for number in (1, 2):
        out = tmp_path / f"run-{number}"
        ended = process("run", "pfedrec", *TINY, "--rounds", 2, "--no-report", "--out", out)
        assert ended.returncode == 0, ended.stderr
        kept.append({path.name for path in tmp_path.rglob("*on_device*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]
