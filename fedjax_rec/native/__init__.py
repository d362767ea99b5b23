"""What XLA cannot compile well for a CPU, in C++ behind XLA's foreign function interface."""

from fedjax_rec.native.build import prepare, require_compiler
from fedjax_rec.native.codebook_cg import fit_by_conjugate_gradients
from fedjax_rec.native.mf_adam import train_mf_by_adam

__all__ = ["fit_by_conjugate_gradients", "prepare", "require_compiler", "train_mf_by_adam"]
