"""Cosine similarities of items as a dense matrix: for tests, small catalogues and curious eyes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import dot
from fedjax_rec.losses.structural import AlignmentTerm, normalize

__all__ = ["cosine_similarity"]


def cosine_similarity(
    embeddings: jax.Array, *, threshold: float | None = None, center: bool = False
) -> jax.Array:
    """M_u, the cosine similarities of all pairs of items, with a diagonal of 0.

    It does not change when the embeddings are rotated or scaled; with ``center`` not when they
    are translated either. The methods never build it for a large catalogue.

    Args:
      embeddings: [m, d] float. A row of zeros is similar to nothing.
      threshold: σ; entries below it become 0. None: all are kept.
      center: subtract the mean embedding first.

    Returns:
      [m, m], in the dtype of ``embeddings``.

    Raises:
      InputError: embeddings that are not a matrix, or a threshold outside (−1, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> cosine_similarity(jnp.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]]), threshold=0.5)
      Array([[0., 1., 0.],
             [1., 0., 0.],
             [0., 0., 0.]], dtype=float32)
    """
    if embeddings.ndim != 2:
        raise InputError(f"embeddings must be [items, dim], not of shape {embeddings.shape}")
    if threshold is not None:
        AlignmentTerm(threshold).check()
    if center:
        embeddings = embeddings - jnp.mean(embeddings, axis=0)
    unit, _ = normalize(embeddings)
    similarity = jnp.where(jnp.eye(len(unit), dtype=bool), 0.0, dot(unit, unit.T))
    if threshold is None:
        return similarity
    return jnp.where(similarity >= threshold, similarity, 0.0)
