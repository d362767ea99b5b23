"""Supervised contrastive loss over items, with its analytic gradient."""

from __future__ import annotations

import jax

from fedjax_rec.losses.structural import MIN_TEMPERATURE, Anchors, ContrastTerm, structural_loss

__all__ = ["MIN_TEMPERATURE", "supervised_contrastive"]


def supervised_contrastive(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 0.1,
    base_temperature: float = 0.5,
    anchors: Anchors = "all",
    sample: jax.Array | None = None,
) -> jax.Array:
    r"""Pulls items of one cluster together and pushes the others away.

    With z_a = E_a/‖E_a‖ and P(a) the other items of a's cluster,

        L = −(τ/τ₀) · mean_a (1/|P(a)|) Σ_{p∈P(a)} [ z_a·z_p/τ − log Σ_{k≠a} exp(z_a·z_k/τ) ].

    An anchor alone in its cluster contributes nothing; ``anchors`` says whether the mean still
    counts it. A row of zeros has no direction: it counts as z = 0 and gets no gradient.

    The gradient is analytic. The positive term needs only per-cluster sums, O(m·d). The
    log-denominator is the one O(m²) part; exp(zzᵀ/τ) is symmetric, so each of its entries is
    computed once (upper triangle of tiles) and serves both rows, and both halves of the gradient,
    Σ_k S_ak (1/D_a + 1/D_k) z_k, are one product. Beyond 4,096 items the matrix is not kept: its
    tiles are computed twice and no [m, m] array exists.

    Args:
      embeddings: [m, d] float, item embeddings E (need not be normalized).
      labels: [m] int, cluster of each item, 0 ≤ label < m.
      temperature: τ, at least ``MIN_TEMPERATURE``.
      base_temperature: τ₀; τ/τ₀ scales the loss.
      anchors: "all": mean over all m items (CGFedRec). "positive": mean over the items that have
        a positive (AlignFedRec's ICA, and the original SupCon release).
      sample: [N] int, distinct items (``draw_sample``) from which the denominators are estimated,
        for O(m·N·d) instead of O(m²·d). The value is then low by O(1/N), and the gradient is an
        estimate of the exact gradient, not the derivative of that value: see
        ``fedjax_rec.losses.sampled``. None: all items, exactly.

    Returns:
      Scalar loss, in the dtype of ``embeddings``. Differentiable (once, in reverse mode) in
      ``embeddings``; safe under jit and vmap.

    Raises:
      InputError: a temperature too small for float32 or not positive, an unknown ``anchors``, or
        shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> pair = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> loss = supervised_contrastive(pair, jnp.array([0, 0, 1]), base_temperature=0.1)
      >>> bool(jnp.isclose(loss, 2 / 3 * jnp.log1p(jnp.exp(-10.0)), atol=1e-6))
      True

    Reference:
      Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, Eq. 2 (L_out).
    """
    term = ContrastTerm(temperature, base_temperature, anchors)
    return structural_loss(embeddings, labels=labels, contrast=term, sample=sample)
