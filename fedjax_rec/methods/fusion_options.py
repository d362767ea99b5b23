"""Options of GFMFR's fusion, and the items' content that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from fedjax_rec.data import item_semantics
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.methods.fusion_teacher import Schedule
from fedjax_rec.models import FusionKind
from fedjax_rec.server import Grouping

__all__ = ["Fusion", "load_content"]


@dataclass(frozen=True)
class Fusion:
    """Options of GFMFR's fusion, beside those of its backbone.

    Attributes:
      fusion: gfmfr: a group's preference, made from the items' content, pulls at its clients.
        none: the method alone.
      modality: NAME=SOURCE, one or more, what the items are like: an .npz (arrays item_id and
        embedding), text (of titles and genres), or sentence-transformers.
      fusion_groups: g, groups of clients.
      fusion_grouping: how the uploaded heads are grouped.
      fusion_pca: share of the heads' variance that is kept before (0.95); unset: all of it.
      fusion_network: what the fusion network does with a group and its modalities.
      fusion_hidden: width of each of its inputs.
      fusion_epochs: its passes over the items in a round.
      fusion_batch_size: items a batch.
      fusion_lr: its learning rate (Adam, rebuilt every round).
      fusion_weight: factor on the KL term.
      fusion_schedule: how the term counts over the rounds t: cosine: cos(πt/2T), linear: t/T,
        exponential: 1 - exp(-t/10), constant.
      fusion_rounds: T.
      fusion_memory: decay of the moving average of BCE/KL, a round.
      fusion_limit: what BCE/KL counts at most. A step of SGD is 1 + this times as long at most, so
        large item rates such as PFedRec's diverge with more.
    """

    fusion: Literal["none", "gfmfr"] = "none"
    modality: tuple[str, ...] = ()
    fusion_groups: int = 5
    fusion_grouping: Grouping = "spectral"
    fusion_pca: float | None = None
    fusion_network: FusionKind = "mlp"
    fusion_hidden: int = 64
    fusion_epochs: int = 50
    fusion_batch_size: int = 256
    fusion_lr: float = 1e-3
    fusion_weight: float = 1.0
    fusion_schedule: Schedule = "cosine"
    fusion_rounds: int = 100
    fusion_memory: float = 0.9
    fusion_limit: float = 1.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("fusion_weight",)

    def __post_init__(self) -> None:
        check_choice("fusion", self.fusion, ("none", "gfmfr"))
        check_choice("fusion_grouping", self.fusion_grouping, ("spectral", "kmeans"))
        check_choice("fusion_network", self.fusion_network, ("mlp", "gate", "sum", "attention"))
        known = ("cosine", "linear", "exponential", "constant")
        check_choice("fusion_schedule", self.fusion_schedule, known)
        for name in ("groups", "hidden", "epochs", "batch_size", "rounds"):
            value = getattr(self, f"fusion_{name}")
            if value < 1:
                raise InputError(f"fusion_{name}={value} must be at least 1")
        for name in ("lr", "weight"):
            value = getattr(self, f"fusion_{name}")
            if not 0 <= value < float("inf"):
                raise InputError(f"fusion_{name}={value} must be a finite number, 0 or more")
        if not 0 <= self.fusion_memory < 1:
            raise InputError(f"fusion_memory={self.fusion_memory} must be 0 or more and below 1")
        if not 0 < self.fusion_limit < float("inf"):
            raise InputError(f"fusion_limit={self.fusion_limit} must be a positive number")
        if self.fusion_pca is not None and not 0 < self.fusion_pca < 1:
            raise InputError(f"fusion_pca={self.fusion_pca} must be a share between 0 and 1")
        names = [_named(entry)[0] for entry in self.modality]
        if len(set(names)) < len(names):
            raise InputError(f"modality={' '.join(self.modality)}: give each a name of its own")
        if self.modality and not self.fuses:
            raise InputError(
                f"modality={self.modality[0]!r} is not read without fusion: add fusion='gfmfr', "
                "or leave it out"
            )

    @property
    def fuses(self) -> bool:
        """Whether there is a fusion."""
        return self.fusion != "none"


def load_content(options: Fusion, dataset: Dataset) -> tuple[np.ndarray, ...]:
    """The modalities, each [m, w] float32, centred and scaled to a mean square of 1.

    So that modalities count alike, whatever their units; distances within one stay what they were.

    Raises:
      InputError: no modality, or one that cannot be loaded.

    Warns:
      MissingSemanticsWarning: items that a modality lacks, with their count: they get its mean.
    """
    if not options.modality:
        raise InputError(
            "fusion='gfmfr' needs to know what the items are like: give modality, one NAME=SOURCE "
            "or more, such as text=vectors.npz (or text=text, made from titles and genres)"
        )
    return tuple(_scaled(_load(entry, dataset)) for entry in options.modality)


def _named(entry: str) -> tuple[str, str]:
    """NAME=SOURCE apart."""
    name, sign, source = entry.partition("=")
    if not name.isidentifier() or not sign or not source:
        raise InputError(
            f"modality={entry!r} is not of the form NAME=SOURCE, such as text=vectors.npz"
        )
    return name, source


def _load(entry: str, dataset: Dataset) -> np.ndarray:
    name, source = _named(entry)
    try:
        return item_semantics(dataset, source)
    except InputError as error:
        if Path(source).suffix.lower() == ".npz":  # which the message names, and what to do
            raise
        raise InputError(
            f"modality {entry!r} cannot be used with {dataset.name}: take {name}=PATH.npz, text "
            "where the data have titles or genres, or sentence-transformers where it is installed"
        ) from error


def _scaled(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    size = np.sqrt(np.mean(centred**2))
    return (centred / size if size > 0 else centred).astype(np.float32)
