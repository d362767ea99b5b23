"""Methods of other people: modules that register theirs when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path

from fedjax_rec.errors import InputError

__all__ = ["PLUGINS", "load_plugins"]

PLUGINS = "FEDJAX_REC_PLUGINS"
_GROUP = "fedjax_rec.methods"


def load_plugins() -> list[str]:
    """Imports what the environment and installed packages name, each once.

    ``FEDJAX_REC_PLUGINS`` holds paths of Python files or names of modules, separated as in ``PATH``
    (":"; ";" on Windows). An installed package names its module under the entry point group
    ``fedjax_rec.methods``. Processes that sweeps and comparisons start inherit the environment.

    Returns:
      What was imported, as it was named.

    Raises:
      InputError: a file or module that is not there, or raises an exception of its own.
    """
    named = [name for name in os.environ.get(PLUGINS, "").split(os.pathsep) if name]
    for name in named:
        _load(name, f"{PLUGINS} names {name}")
    installed = [entry.value for entry in entry_points(group=_GROUP)]
    for name in installed:
        _load(name, f"an installed package names {name} as a plug-in")
    return [*named, *installed]


def _load(name, what):
    path = Path(name)
    try:
        if path.suffix == ".py":
            _load_file(path)
        else:
            importlib.import_module(name)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{what}, which is not there: correct its path") from error
    except Exception as error:
        raise InputError(f"{what}, which fails with {type(error).__name__}: {error}") from error


def _load_file(path):
    module = f"fedjax_rec_plugin_{path.stem}"
    if module in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None  # a name that ends with .py has a loader
    assert spec.loader is not None
    # Dataclasses look their module up while they are made.
    made = sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[module]
        raise
