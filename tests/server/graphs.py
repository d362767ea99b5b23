"""Graphs and embeddings with known communities."""

import numpy as np


def planted(sizes: list[int], seed: int = 0, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric similarity matrix with blocks, shuffled, and the truth.

    Similarities are 0.6 to 1 inside a block and at most ``noise`` outside.
    """
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    same = truth[:, None] == truth[None, :]
    values = np.where(same, rng.uniform(0.6, 1, same.shape), rng.uniform(-noise, noise, same.shape))
    upper = np.triu(values, 1)
    return upper + upper.T + np.eye(len(truth)), truth


def around_centers(
    items: int, clusters: int, *, noise: float, dim: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """[items, dim] embeddings, each its cluster's center (N(0, I)) plus noise·N(0, I); the truth.

    The cosine of two items of one cluster is about 1/(1 + noise²).
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, clusters, items)
    centers = rng.normal(size=(clusters, dim))
    return centers[truth] + noise * rng.normal(size=(items, dim)), truth


def low_rank(items: int, *, rank: int = 4, dim: int = 32, seed: int = 0) -> np.ndarray:
    """[items, dim] embeddings of few directions, as training gives them: no clusters planted."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(items, rank)) @ rng.normal(size=(rank, dim))
    return signal + 0.3 * rng.normal(size=(items, dim))
