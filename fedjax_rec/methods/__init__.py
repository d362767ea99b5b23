"""Methods: one file each. ``methods.NAME(**options)`` builds one; ``REGISTRY`` lists them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_rec.data.options import check_choice, did_you_mean
from fedjax_rec.errors import InputError
from fedjax_rec.methods.cgfedrec import CGFedRecConfig
from fedjax_rec.methods.cgfedrec import cgfedrec as _cgfedrec
from fedjax_rec.methods.contract import Broadcast, EvaluateAt, Info, Method, Traffic
from fedjax_rec.methods.fedmf import FedMFConfig
from fedjax_rec.methods.fedmf import fedmf as _fedmf
from fedjax_rec.methods.local import LocalConfig
from fedjax_rec.methods.local import local as _local
from fedjax_rec.methods.pfedrec import PFedRecConfig
from fedjax_rec.methods.pfedrec import pfedrec as _pfedrec
from fedjax_rec.methods.popularity import PopularityConfig
from fedjax_rec.methods.popularity import popularity as _popularity

__all__ = [
    "REGISTRY",
    "Broadcast",
    "Entry",
    "EvaluateAt",
    "Info",
    "Method",
    "Traffic",
    "build",
    "cgfedrec",
    "fedmf",
    "local",
    "pfedrec",
    "popularity",
]


class Entry(NamedTuple):
    """A registered method: the dataclass of its options, and the factory that takes one."""

    config: type
    factory: Callable[[Any], Method]


REGISTRY: dict[str, Entry] = {}


def build(name: str, **options: Any) -> Method:
    """Builds a registered method.

    Args:
      name: a key of ``REGISTRY``.
      **options: fields of its config dataclass; the rest keep their defaults.

    Raises:
      InputError: an unknown method or option (with the nearest known name), or a value out of
        range.

    Example:
      >>> build("cgfedrec", clusters=20).config.clusters
      20
    """
    check_choice("method", name, REGISTRY)
    entry = REGISTRY[name]
    known = [field.name for field in dataclasses.fields(entry.config)]
    for option in options:
        if option not in known:
            raise InputError(
                f"{option}= is no option of {name}{did_you_mean(option, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
    return entry.factory(entry.config(**options))


def _register(name: str, config: type, factory: Callable[[Any], Method]) -> Callable[..., Method]:
    """Lists a method and returns ``lambda **options: build(name, **options)``, documented."""
    REGISTRY[name] = Entry(config, factory)

    def make(**options: Any) -> Method:
        return build(name, **options)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{factory.__doc__}\n\n{config.__doc__}"
    return make


cgfedrec = _register("cgfedrec", CGFedRecConfig, _cgfedrec)
pfedrec = _register("pfedrec", PFedRecConfig, _pfedrec)
fedmf = _register("fedmf", FedMFConfig, _fedmf)
local = _register("local", LocalConfig, _local)
popularity = _register("popularity", PopularityConfig, _popularity)
