"""Graphs with known communities."""

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
