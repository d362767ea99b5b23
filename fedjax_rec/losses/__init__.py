"""Losses: pure functions, one concept a file, each a scalar safe under jit, grad and vmap.

Beside them, what they are losses of: item similarities, and items rebuilt from codebooks.
"""

from fedjax_rec.losses.bce import binary_cross_entropy
from fedjax_rec.losses.bernoulli_kl import bernoulli_kl
from fedjax_rec.losses.codebook import (
    codebook_gradient,
    codebook_mse,
    mix,
    normal_product,
    reconstruct,
    sum_by_code,
)
from fedjax_rec.losses.contrastive import supervised_contrastive
from fedjax_rec.losses.frobenius import masked_frobenius
from fedjax_rec.losses.gram import gram_distance
from fedjax_rec.losses.mse import elementwise_mse
from fedjax_rec.losses.nuclear import nuclear_norm
from fedjax_rec.losses.sampled import check_sample_size, draw_sample
from fedjax_rec.losses.similarity import cosine_similarity
from fedjax_rec.losses.structural import AlignmentTerm, ContrastTerm, structural_loss

__all__ = [
    "AlignmentTerm",
    "ContrastTerm",
    "bernoulli_kl",
    "binary_cross_entropy",
    "check_sample_size",
    "codebook_gradient",
    "codebook_mse",
    "cosine_similarity",
    "draw_sample",
    "elementwise_mse",
    "gram_distance",
    "masked_frobenius",
    "mix",
    "normal_product",
    "nuclear_norm",
    "reconstruct",
    "structural_loss",
    "sum_by_code",
    "supervised_contrastive",
]
