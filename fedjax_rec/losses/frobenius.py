"""Masked Frobenius distance between a client's item similarities and the global ones."""

from __future__ import annotations

import jax

from fedjax_rec.losses.structural import AlignmentTerm, structural_loss

__all__ = ["masked_frobenius"]


def masked_frobenius(
    embeddings: jax.Array, global_similarity: jax.Array, *, threshold: float, center: bool = False
) -> jax.Array:
    r"""Squared distance to the global similarities, where the client's own reach the threshold.

    With z_j = E_j/‖E_j‖ and s_jk = z_j·z_k,

        L_GSA = Σ_{j≠k} W_jk · (s_jk − g_jk)²,    W_jk = 1[s_jk ≥ σ], treated as constant.

    Both orders of a pair count, as in the squared norm of a matrix; the diagonal is none of M_u.

    Args:
      embeddings: [m, d] float, item embeddings E (need not be normalized).
      global_similarity: [m, m] symmetric, or packed [tiles, t, t] (``fedjax_rec.tiles``): M_g.
      threshold: σ, above −1 and at most 1.
      center: subtract the mean embedding first.

    Returns:
      Scalar loss, in the dtype of ``embeddings``. Differentiable (once, in reverse mode) in
      ``embeddings``, with an analytic gradient; safe under jit and vmap. Beyond 4,096 items no
      [m, m] array is made.

    Raises:
      InputError: a threshold out of range, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> pair = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> masked_frobenius(pair, jnp.full((3, 3), 0.5), threshold=0.5)
      Array(0.5, dtype=float32)

    Reference:
      AlignFedRec, L_GSA.

    Differs from the paper: its write-up's sample code detaches E, which leaves this loss without
    a gradient; here it has one.
    """
    term = AlignmentTerm(threshold)
    return structural_loss(
        embeddings, global_similarity=global_similarity, alignment=term, center=center
    )
