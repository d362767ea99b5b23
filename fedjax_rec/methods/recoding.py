"""RQFedRec on the server: which codes make up an item, and how they are remade between rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.server import (
    distinct_codes,
    hash_codes,
    reconstruct,
    residual_kmeans,
    residual_means,
    rq_vae_codes,
)
from fedjax_rec.server.clustering import require_finite

__all__ = ["Coding", "Recoded", "codes_of", "mixing_weight", "recode"]


@dataclass(frozen=True)
class Coding:
    """How items are coded.

    Attributes:
      levels: L, codes of an item in each channel.
      codewords: M, codewords a level.
      recode_every: τ, rounds between remaking the collaborative codes.
      warmup: T_warm, rounds after which only the collaborative channel is left.
      codebook: how codes are found: "rq-kmeans": residual k-means. "rq-vae": an autoencoder.
        "hash": by chance, for both channels and for good: no content, nothing learnt. Then the
        collaborative channel starts after the first τ rounds and is never remade, fixed or not.
      code_components: principal components of the vectors that "rq-kmeans" codes, at most; 0: the
        vectors themselves, as the paper. In many dimensions the late levels give a codeword to each
        outlier and one to all the rest; in few, items spread over all of them.
      distinct_codes: no two items share all their codes. The paper says nothing of it; items that
        start with equal codes then stay one item for good.
      recode_sweeps: passes of residual means that refit the codebook to remade codes. The paper's
        residual means are one; more come nearer to what was before. Under "hash" codes are never
        remade: the passes are made once, when the collaborative channel starts, whose codebook is
        then fitted to the semantic channel's items (without the semantic channel: never).
    """

    levels: int = 3
    codewords: int = 256
    recode_every: int = 10
    warmup: int = 100
    codebook: Literal["rq-kmeans", "hash", "rq-vae"] = "rq-kmeans"
    code_components: int = 32
    distinct_codes: bool = True
    recode_sweeps: int = 1

    def __post_init__(self) -> None:
        for name in ("levels", "codewords", "recode_every", "warmup", "recode_sweeps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.code_components < 0:
            raise InputError(f"code_components={self.code_components} must be 0 or more")
        check_choice("codebook", self.codebook, ("rq-kmeans", "hash", "rq-vae"))


class Recoded(NamedTuple):
    """Remade codes, and the codebook that goes with them.

    Attributes:
      codebook: [L, M, d] float32.
      codes: [m, L], the smallest unsigned integers.
      error: ‖C − C'‖/‖C‖ (Frobenius), how far the channel's reconstruction C' is from what it was.
    """

    codebook: np.ndarray
    codes: np.ndarray
    error: float


def mixing_weight(trained: int, warmup: int) -> float:
    """λ = min(1, t/T_warm), the share of the collaborative channel once it has codes.

    Args:
      trained: t, rounds trained so far.
      warmup: T_warm.

    Reference:
      RQFedRec, curriculum.
    """
    return min(1.0, trained / warmup)


def codes_of(vectors: np.ndarray, coding: Coding, *, seed: int) -> np.ndarray:
    """Codes of items from vectors of any width.

    Args:
      vectors: [m, w] float, finite; "hash" looks at m only.
      coding: how.
      seed: 0 ≤ seed < 2³².

    Returns:
      [m, L], the smallest unsigned integers.

    Raises:
      InputError: more codewords than items, or a vector that is not finite.
    """
    levels, codewords = coding.levels, coding.codewords
    if coding.codebook == "hash":
        codes = hash_codes(len(vectors), levels=levels, codewords=codewords, seed=seed)
    elif coding.codebook == "rq-vae":
        codes = rq_vae_codes(vectors, levels=levels, codewords=codewords, seed=seed)
    else:
        vectors = require_finite(vectors)
        if coding.code_components:
            vectors = _leading_components(vectors, coding.code_components)
        codes = residual_kmeans(vectors, levels=levels, codewords=codewords, seed=seed)[1]
    if coding.distinct_codes:
        codes = distinct_codes(codes, codewords=codewords, seed=seed)
    return codes


def recode(items: np.ndarray, previous: np.ndarray, coding: Coding, *, seed: int) -> Recoded:
    """Remakes the collaborative channel.

    The codes come from the directions of the global items, their rows at unit length. The codebook
    is then refitted, by residual means over these codes, to what the channel stood for before: the
    global items move by no more than λ times the error of that fit.

    Args:
      items: [m, d] float32, global items, rebuilt from both channels.
      previous: [m, d] float32, C: the channel's own reconstruction so far; the semantic one's where
        it has no codes yet.
      coding: how.
      seed: of the clustering.

    Reference:
      RQFedRec, periodic update of collaborative codes.
    """
    lengths = np.linalg.norm(items, axis=1, keepdims=True)
    codes = codes_of(items / np.maximum(lengths, np.finfo(np.float32).tiny), coding, seed=seed)
    codebook = residual_means(
        previous, codes, codewords=coding.codewords, sweeps=coding.recode_sweeps
    )
    scale = float(np.linalg.norm(previous))
    moved = float(np.linalg.norm(previous - reconstruct(codebook, codes)))
    return Recoded(codebook, codes, moved / scale if scale else 0.0)


def _leading_components(vectors: np.ndarray, components: int) -> np.ndarray:
    """[m, r] float32, the vectors in their r leading principal components (all where fewer)."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    components = min(components, *vectors.shape)
    with threadpool_limits(1):  # sums run in one order
        found = PCA(components, svd_solver="covariance_eigh").fit_transform(
            vectors.astype(np.float64)
        )
    return found.astype(np.float32)
