"""FedCIA's alignment: gradient steps that bring a client's Gram matrix nearer to the global one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.losses.gram import distance_and_gradient
from fedjax_rec.losses.pairwise import dot

__all__ = ["Eigenbasis", "GramMatrix", "align"]


class GramMatrix(NamedTuple):
    """The global Gram matrix as it is: [m, m] float32, symmetric."""

    matrix: jax.Array


class Eigenbasis(NamedTuple):
    """The global Gram matrix as G = U Λ Uᵀ.

    Attributes:
      vectors: [m, m] float32, U; its columns are the eigenvectors.
      values: [m] float32, the diagonal of Λ.
    """

    vectors: jax.Array
    values: jax.Array


def align(
    embeddings: jax.Array, target: GramMatrix | Eigenbasis, *, steps: int, lr: float | jax.Array
) -> jax.Array:
    """Takes SGD steps on ‖E Eᵀ − G‖_F.

    Neither form makes an [m, m] array of a client's. In the eigenbasis, F = UᵀE has the same
    inner products, and G E becomes a scaling of rows:

        ‖E Eᵀ − G‖ = ‖F Fᵀ − Λ‖,    ∇_F = 2 (F (FᵀF) − Λ F) / ‖F Fᵀ − Λ‖,

    so a step costs 4·m·d² operations, where the matrix form takes 2·m²·d more. The rotation there
    and back (4·m²·d in all) is exact: both forms take the same steps.

    Args:
      embeddings: [m, d] float32, E.
      target: the global Gram matrix in either form.
      steps: number of steps; the loop is one program, whatever their number.
      lr: learning rate.

    Returns:
      [m, d], the aligned embeddings.

    Reference:
      FedCIA's local alignment (the paper: 100 steps at 0.1, on E Eᵀ itself).
    """
    if isinstance(target, Eigenbasis):
        rotated = dot(target.vectors.T, embeddings)
        values = target.values
        aligned = _descend(rotated, lambda f: values[:, None] * f, values, steps, lr)
        return dot(target.vectors, aligned)
    matrix = target.matrix
    return _descend(embeddings, lambda e: dot(matrix, e), matrix, steps, lr)


def _descend(start, apply, gram, steps, lr):
    squared_norm = jnp.sum(gram**2)

    def step(_, embeddings):
        _, gradient = distance_and_gradient(embeddings, apply(embeddings), squared_norm)
        return embeddings - lr * gradient

    return jax.lax.fori_loop(0, steps, step, start)
