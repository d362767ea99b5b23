"""Settings of the methods on the ratio split, in one place for every script about RQFedRec.

Edit the constants here; scripts that compare, leave parts out, add noise or count bytes follow.
`rqfedrec_search.py` is where they come from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError

__all__ = ["FEDERATIONS", "METHODS", "PUBLISHED", "SETTINGS", "WHERE", "build", "has_content"]

FEDERATIONS = {
    "ml-100k-ratio": "ML-100K, 100 silos",
    "ml-100k-ratio-943": "ML-100K, 943 single users",
    "ml-1m-ratio": "ML-1M, 100 silos",
}
METHODS = ("rqfedrec", "fedmf", "local-mf", "popularity")

_ADAM: Mapping[str, Any] = {
    "optimizer": "adam",
    "lr": 0.01,
    "item_lr": 0.01,
    "weight_decay": 0.0,
    "batch_size": 1024,
    "negatives": 4,
    "local_epochs": 2,
    "init_std": 0.001,
}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "rqfedrec": {
        **_ADAM,
        "lr": 0.02,
        "item_lr": 0.02,
        "weight_decay": 3e-5,
        "levels": 3,
        "codewords": 256,
        "recode_every": 10,
        "warmup": 20,
    },
    "fedmf": _ADAM,
    "local-mf": _ADAM,
    "popularity": {},
}
"""Method -> options on every federation."""

WHERE: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("rqfedrec", "ml-1m-ratio"): {"codewords": 512},
    # Single users touch few items in a round: without weights by item, most of a mean is "no
    # change". They also have few batches an epoch.
    ("rqfedrec", "ml-100k-ratio-943"): {
        "weighting": "touched",
        "local_epochs": 5,
        "batch_size": 256,
    },
    ("fedmf", "ml-100k-ratio-943"): {"local_epochs": 5, "batch_size": 256},
    ("local-mf", "ml-100k-ratio-943"): {"local_epochs": 5, "batch_size": 256},
}
"""(method, federation) -> options that differ there."""

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "ml-100k-ratio": {
        "rqfedrec": {"Recall@10": 19.14, "MRR*@10": 62.71, "NDCG*@10": 66.95},
        "fedmf": {"Recall@10": 16.39, "MRR*@10": 55.27, "NDCG*@10": 60.79},
        "local-mf": {"Recall@10": 5.19, "MRR*@10": 25.51, "NDCG*@10": 31.57},
        "fedcia": {"Recall@10": 17.49, "MRR*@10": 56.61, "NDCG*@10": 62.28},
    },
    "ml-100k-ratio-943": {
        "rqfedrec": {"Recall@10": 16.20, "MRR*@10": 56.88, "NDCG*@10": 61.32},
    },
    "ml-1m-ratio": {
        "rqfedrec": {"Recall@10": 14.42, "MRR*@10": 62.09, "NDCG*@10": 66.42},
        "fedmf": {"Recall@10": 12.6},
        "local-mf": {"Recall@10": 6.2},
    },
}
"""Federation -> method -> percent, from RQFedRec's tables; MRR and NDCG by FedCIA's release."""

_FOUND_AT = 64  # d of the search behind the learning rates

# At most, with --toy: what 60 items can take.
_TOY = {"dim": 8, "codewords": 8, "levels": 2, "recode_every": 2, "warmup": 4}
_FACTORIES = {"local-mf": "mf-local"}


def build(
    name: str, federation: str, data: Dataset, *, dim: int, toy: bool = False, **changes: Any
) -> fedjax_rec.methods.Method:
    """A method at its settings for a federation.

    Args:
      name: one of `METHODS`.
      federation: one of `FEDERATIONS`.
      data: its dataset. RQFedRec leaves the semantic channel out where the items have no text,
        unless the settings or changes say something about it.
      dim: d.
      toy: cut sizes down to what a toy dataset can take.
      **changes: options that win over the settings. ``$FEDJAX_REC_DATA`` in ``semantics`` is
        filled in.

    Raises:
      InputError: an unknown method or federation, or options that it does not take.
    """
    for kind, value, known in (
        ("method", name, METHODS),
        ("federation", federation, tuple(FEDERATIONS)),
    ):
        if value not in known:
            raise InputError(f"{kind} {value}: choose from {', '.join(known)}")
    options = {**SETTINGS[name], **WHERE.get((name, federation), {})}
    if name != "popularity":
        options = {**_rates_at(changes.get("dim", dim), options), "dim": dim}
    options |= changes
    if isinstance(options.get("semantics"), str):
        options["semantics"] = os.path.expandvars(options["semantics"])
    if (
        name == "rqfedrec"
        and not has_content(data)
        and not {"without", "semantics"} & options.keys()
        and options.get("codebook") != "hash"
    ):
        options["without"] = "semantic"
    if toy:
        for option, most in _TOY.items():
            if option in options:
                options[option] = min(options[option], most)
    return fedjax_rec.methods.build(_FACTORIES.get(name, name), **options)


def _rates_at(dim: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the learning rates of a width.

    Adam moves every number by its rate, so a product of two wide vectors moves faster: rates fall
    with the square root of d above the width that they were found at.
    """
    factor = min(1.0, (_FOUND_AT / dim) ** 0.5)
    return {**options, "lr": options["lr"] * factor, "item_lr": options["item_lr"] * factor}


def has_content(data: Dataset) -> bool:
    """Whether the items have text that semantic codes can be made of."""
    return data.item_titles is not None or data.item_genres is not None
