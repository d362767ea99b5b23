"""Methods from outside, as the README's example has one."""

import re
import sys
from pathlib import Path

import pytest

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods.plugins import PLUGINS, load_plugins
from tests.cli.commands import TINY, here, refused, rows

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def registry(monkeypatch) -> None:
    """The registry and the loaded modules as they were, afterwards."""
    monkeypatch.setattr(methods, "REGISTRY", methods.REGISTRY)
    before, loaded = dict(methods.REGISTRY), set(sys.modules)
    yield
    methods.REGISTRY.clear()
    methods.REGISTRY.update(before)
    for name in set(sys.modules) - loaded:
        if "plugin" in name:
            del sys.modules[name]


def test_the_readmes_method_runs_and_without_momentum_is_fedmf(tmp_path, monkeypatch, capfd):
    """Pasted as it stands: with momentum 0 the rows are FedMF's, with more they are not."""
    source = re.search(r"```python\n(\"\"\"FedAvgM.*?)```", README.read_text(), re.DOTALL)
    assert source is not None
    assert len([line for line in source[1].splitlines() if line.strip()]) <= 60
    file = tmp_path / "fedavgm.py"
    file.write_text(source[1])
    monkeypatch.setenv(PLUGINS, str(file))
    run = (*TINY, "--rounds", 3, "--quiet", "--no-report")
    here("run", "fedavgm", *run, "--momentum", 0.0, "--out", tmp_path / "none")
    here("run", "fedavgm", *run, "--out", tmp_path / "some")
    here("run", "fedmf", *run, "--out", tmp_path / "fedmf")
    assert rows(tmp_path / "none") == rows(tmp_path / "fedmf")
    assert rows(tmp_path / "some") != rows(tmp_path / "fedmf")
    assert methods.build("fedavgm", momentum=0.25).config.momentum == 0.25
    message = refused(capfd, "run", "fedavgm", *run, "--momentum", 2)
    assert message.startswith("momentum=2.0 must be at least 0 and below 1")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "which is not there: correct its path"),
        ("import no_such_module_anywhere", "which fails with ModuleNotFoundError: No module named"),
        ("1 / 0", "which fails with ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_fails_is_one_line(source, told, tmp_path, monkeypatch, capfd):
    file = tmp_path / "broken.py"
    if source is not None:
        file.write_text(source)
    monkeypatch.setenv(PLUGINS, str(file))
    message = refused(capfd, "run", "pfedrec", *TINY)
    assert message.startswith(f"{PLUGINS} names {file}, {told}")


def test_a_module_by_name_is_loaded_once(tmp_path, monkeypatch):
    (tmp_path / "a_plugin.py").write_text(
        "from fedjax_rec.methods import REGISTRY, register\n"
        "register('another', *REGISTRY['popularity'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(PLUGINS, "a_plugin")
    assert load_plugins() == load_plugins() == ["a_plugin"]
    assert methods.build("another").name == "popularity"


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(InputError, match="there is a method 'local' already"):
        methods.register("local", *methods.REGISTRY["popularity"])
