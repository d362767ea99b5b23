"""Codes on the host: residual k-means of 16,454 × 512 vectors in 3 levels of 1,024 codewords.

Beside it a catalogue of ML-100K's size, with all ways to make codes. Vectors have unit length and
no planted clusters, only a falling spectrum (the k-th direction has standard deviation k^−0.7).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from harness import Options, Table, main, median

from fedjax_rec.errors import InputError
from fedjax_rec.server import (
    hash_codes,
    reconstruct,
    residual_kmeans,
    residual_means,
    rq_vae_codes,
)

__all__ = [
    "QuantizeOptions",
    "effective_codewords",
    "error_shares",
    "principal_components",
    "run",
    "spectrum_vectors",
]

LIMIT_SECONDS = 120.0
SPECTRUM = 0.7
COMPONENTS = 32


@dataclass(frozen=True)
class QuantizeOptions(Options):
    """Options of the quantization benchmark.

    Attributes:
      items: m of the large catalogue.
      dim: d of both.
      levels: L of both.
      codewords: M of the large catalogue; the small one has 256.
      turns: calls of each, with a seed each; their median counts.
    """

    items: int = 16_454
    dim: int = 512
    levels: int = 3
    codewords: int = 1_024
    turns: int = 1


def run(options: QuantizeOptions) -> Table:
    """Times each way to make codes; one row each."""
    if options.turns < 1:
        raise InputError(f"--turns {options.turns} must be at least 1")
    table = Table("residual_kmeans", "Codes for items, on the host", options)
    large, small, dim = (options.items, options.codewords), (1_682, 256), options.dim
    if options.toy:
        large, small, dim = (200, 32), (60, 16), 8
    rng = np.random.default_rng(options.seed)
    for (items, codewords), alternatives in ((small, True), (large, False)):
        vectors = spectrum_vectors(rng, items, dim)
        size = {"levels": options.levels, "codewords": codewords}
        ways: dict[str, Callable[[int], np.ndarray]] = {
            "residual k-means": partial(_by_kmeans, vectors, mini_batch=False, **size),
            "residual k-means, mini-batch": partial(_by_kmeans, vectors, mini_batch=True, **size),
        }
        few = principal_components(vectors, min(COMPONENTS, items, dim))
        ways[f"residual k-means of {few.shape[1]} components"] = partial(
            _by_kmeans, few, mini_batch=False, **size
        )
        if alternatives:
            ways["RQ-VAE"] = lambda seed, v=vectors, s=size: rq_vae_codes(v, seed=seed, **s)
            ways["hash"] = lambda seed, m=items, s=size: hash_codes(m, seed=seed, **s)
        for name, codes_of in ways.items():
            _row(table, name, vectors, codewords, codes_of, options.turns)
    table.note("s: from vectors, or their components, to codes; on one core (the RQ-VAE: on all).")
    table.note(
        "error: what codes of 1 … L levels leave of ‖v − mean‖², with codebooks by residual means."
    )
    table.note("effective: exp of the entropy of the last level's codes; M where all serve alike.")
    return table


def spectrum_vectors(rng: np.random.Generator, items: int, dim: int) -> np.ndarray:
    """[items, dim] float32 rows of unit length from a normal law with a falling spectrum."""
    rows = rng.normal(size=(items, dim)) * np.arange(1, dim + 1) ** -SPECTRUM
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def principal_components(vectors: np.ndarray, components: int) -> np.ndarray:
    """[m, components] coordinates along the leading principal directions."""
    centered = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centered.T @ centered)
    return centered @ directions[:, : -components - 1 : -1]


def effective_codewords(codes: np.ndarray) -> float:
    """exp(entropy) of one level's codes [m]: M where all are used alike, 1 where only one is."""
    counts = np.bincount(codes)
    share = counts[counts > 0] / len(codes)
    return float(np.exp(-np.sum(share * np.log(share))))


def error_shares(vectors: np.ndarray, codes: np.ndarray, codewords: int) -> list[float]:
    """For 1 … L levels: squared error of the best-known codebooks, as a share of the variance."""
    codebooks = residual_means(vectors, codes, codewords=codewords)
    total = np.sum((vectors - vectors.mean(axis=0)) ** 2, dtype=float)
    rebuilt = (reconstruct(codebooks[:n], codes[:, :n]) for n in range(1, codes.shape[1] + 1))
    return [float(np.sum((vectors - r) ** 2, dtype=float) / total) for r in rebuilt]


def _by_kmeans(vectors: np.ndarray, seed: int, **options) -> np.ndarray:
    return residual_kmeans(vectors, seed=seed, **options)[1]


def _row(
    table: Table,
    name: str,
    vectors: np.ndarray,
    codewords: int,
    codes_of: Callable[[int], np.ndarray],
    turns: int,
) -> None:
    seconds, codes = [], np.zeros((0, 0), np.uint8)
    for seed in range(turns):
        start = time.perf_counter()
        codes = codes_of(seed)
        seconds.append(time.perf_counter() - start)
    shares = error_shares(vectors, codes, codewords)
    table.add(
        items=len(vectors),
        dim=vectors.shape[1],
        levels=codes.shape[1],
        codewords=codewords,
        codes=name,
        s=median(seconds),
        **{f"error, {level + 1}": share for level, share in enumerate(shares)},
        **{"effective, last level": effective_codewords(codes[:, -1])},
        **{"distinct codes": len(np.unique(codes, axis=0))},
        verdict="ok" if median(seconds) < LIMIT_SECONDS else "too slow",
    )


if __name__ == "__main__":
    main(QuantizeOptions, run, __doc__ or "")
