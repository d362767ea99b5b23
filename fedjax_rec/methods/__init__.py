"""Methods: one file each. ``methods.NAME(**options)`` builds one; ``REGISTRY`` lists them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_rec.data.options import check_choice, did_you_mean
from fedjax_rec.errors import InputError
from fedjax_rec.methods.alignfedrec import AlignFedRecConfig
from fedjax_rec.methods.alignfedrec import alignfedrec as _alignfedrec
from fedjax_rec.methods.central import MFCentralConfig, NCFCentralConfig
from fedjax_rec.methods.central import mf_central as _mf_central
from fedjax_rec.methods.central import ncf_central as _ncf_central
from fedjax_rec.methods.cgfedrec import CGFedRecConfig
from fedjax_rec.methods.cgfedrec import cgfedrec as _cgfedrec
from fedjax_rec.methods.cofedrec import CoFedRecConfig
from fedjax_rec.methods.cofedrec import cofedrec as _cofedrec
from fedjax_rec.methods.contract import (
    Broadcast,
    ByClient,
    EvaluateAt,
    Info,
    Method,
    Traffic,
    Uploads,
)
from fedjax_rec.methods.fedca import FedCAConfig
from fedjax_rec.methods.fedca import fedca as _fedca
from fedjax_rec.methods.fedcia import FedCIAConfig
from fedjax_rec.methods.fedcia import fedcia as _fedcia
from fedjax_rec.methods.fedcia_gf import FedCIAGFConfig
from fedjax_rec.methods.fedcia_gf import fedcia_gf as _fedcia_gf
from fedjax_rec.methods.fedmf import FedMFConfig
from fedjax_rec.methods.fedmf import fedmf as _fedmf
from fedjax_rec.methods.fedncf import FedNCFConfig
from fedjax_rec.methods.fedncf import fedncf as _fedncf
from fedjax_rec.methods.fedrap import FedRAPConfig
from fedjax_rec.methods.fedrap import fedrap as _fedrap
from fedjax_rec.methods.gfmfr import GFMFRConfig
from fedjax_rec.methods.gfmfr import gfmfr as _gfmfr
from fedjax_rec.methods.gpfedrec import GPFedRecConfig
from fedjax_rec.methods.gpfedrec import gpfedrec as _gpfedrec
from fedjax_rec.methods.local import LocalConfig
from fedjax_rec.methods.local import local as _local
from fedjax_rec.methods.mf_local import MFLocalConfig
from fedjax_rec.methods.mf_local import mf_local as _mf_local
from fedjax_rec.methods.mlcgfedrec import MLCGFedRecConfig
from fedjax_rec.methods.mlcgfedrec import mlcgfedrec as _mlcgfedrec
from fedjax_rec.methods.pfedrec import PFedRecConfig
from fedjax_rec.methods.pfedrec import pfedrec as _pfedrec
from fedjax_rec.methods.plugins import load_plugins
from fedjax_rec.methods.popularity import PopularityConfig
from fedjax_rec.methods.popularity import popularity as _popularity
from fedjax_rec.methods.presets import PRESETS, preset_options
from fedjax_rec.methods.rqfedrec import RQFedRecConfig
from fedjax_rec.methods.rqfedrec import rqfedrec as _rqfedrec

__all__ = [
    "PRESETS",
    "REGISTRY",
    "Broadcast",
    "ByClient",
    "Entry",
    "EvaluateAt",
    "Info",
    "Method",
    "Traffic",
    "Uploads",
    "alignfedrec",
    "build",
    "cgfedrec",
    "cofedrec",
    "fedca",
    "fedcia",
    "fedcia_gf",
    "fedmf",
    "fedncf",
    "fedrap",
    "gfmfr",
    "gpfedrec",
    "load_plugins",
    "local",
    "mf_central",
    "mf_local",
    "mlcgfedrec",
    "ncf_central",
    "pfedrec",
    "popularity",
    "register",
    "rqfedrec",
]


class Entry(NamedTuple):
    """A registered method: the dataclass of its options, and the factory that takes one."""

    config: type
    factory: Callable[[Any], Method]


REGISTRY: dict[str, Entry] = {}


def build(name: str, *, preset: str | None = None, **options: Any) -> Method:
    """Builds a registered method.

    Args:
      name: a key of ``REGISTRY``.
      preset: a key of ``PRESETS[name]``, settings to start from; None: the method's defaults.
      **options: fields of its config dataclass; the rest keep the preset's values or defaults.

    Raises:
      InputError: an unknown method, preset or option (with the nearest known name), or a value
        out of range.

    Example:
      >>> build("cgfedrec", clusters=20).config.clusters
      20
    """
    if name not in REGISTRY:
        load_plugins()
    check_choice("method", name, REGISTRY)
    entry = REGISTRY[name]
    known = [field.name for field in dataclasses.fields(entry.config)]
    for option in options:
        if option not in known:
            raise InputError(
                f"{option}= is no option of {name}{did_you_mean(option, known)}; "
                f"it takes {', '.join(known) or 'none'}"
            )
    return entry.factory(entry.config(**{**preset_options(name, preset), **options}))


def register(name: str, config: type, factory: Callable[[Any], Method]) -> Callable[..., Method]:
    """Lists a method, so that the command line and ``build`` know it.

    Args:
      name: as people will type it; one that is not taken.
      config: the frozen dataclass of its options. The "Attributes" of its docstring are their help.
      factory: one of ``config`` -> the method.

    Returns:
      ``build`` for this method alone, documented.

    Raises:
      InputError: the name is taken.
    """
    if name in REGISTRY:
        raise InputError(f"there is a method {name!r} already: register another name")
    REGISTRY[name] = Entry(config, factory)

    def make(*, preset: str | None = None, **options: Any) -> Method:
        return build(name, preset=preset, **options)

    make.__name__ = make.__qualname__ = name.replace("-", "_")
    make.__doc__ = f"{factory.__doc__}\n\n{config.__doc__}"
    return make


alignfedrec = register("alignfedrec", AlignFedRecConfig, _alignfedrec)
cgfedrec = register("cgfedrec", CGFedRecConfig, _cgfedrec)
mlcgfedrec = register("mlcgfedrec", MLCGFedRecConfig, _mlcgfedrec)
pfedrec = register("pfedrec", PFedRecConfig, _pfedrec)
fedcia = register("fedcia", FedCIAConfig, _fedcia)
fedcia_gf = register("fedcia-gf", FedCIAGFConfig, _fedcia_gf)
rqfedrec = register("rqfedrec", RQFedRecConfig, _rqfedrec)
fedmf = register("fedmf", FedMFConfig, _fedmf)
fedncf = register("fedncf", FedNCFConfig, _fedncf)
fedrap = register("fedrap", FedRAPConfig, _fedrap)
gpfedrec = register("gpfedrec", GPFedRecConfig, _gpfedrec)
cofedrec = register("cofedrec", CoFedRecConfig, _cofedrec)
fedca = register("fedca", FedCAConfig, _fedca)
gfmfr = register("gfmfr", GFMFRConfig, _gfmfr)
local = register("local", LocalConfig, _local)
mf_local = register("mf-local", MFLocalConfig, _mf_local)
mf_central = register("mf-central", MFCentralConfig, _mf_central)
ncf_central = register("ncf-central", NCFCentralConfig, _ncf_central)
popularity = register("popularity", PopularityConfig, _popularity)
