"""Losses: pure functions, one concept a file, each a scalar safe under jit, grad and vmap."""

from fedjax_rec.losses.bce import binary_cross_entropy
from fedjax_rec.losses.contrastive import supervised_contrastive

__all__ = ["binary_cross_entropy", "supervised_contrastive"]
