"""Supervised contrastive loss over items, with its analytic gradient."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError

__all__ = ["MIN_TEMPERATURE", "supervised_contrastive"]

MIN_TEMPERATURE = 0.03
"""Below this, exp((s − 1)/τ) of two opposite items underflows float32."""

# Tiles of the similarity matrix up to this many rows are computed whole (a 640 x 640 float32 tile
# is 1.6 MB); a catalogue whose matrix is larger than _KEEP entries is streamed instead.
_TILE_ROWS = 640
_KEEP_ENTRIES = 4096 * 4096
_STREAM_ENTRIES = 4_000_000


def supervised_contrastive(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 0.1,
    base_temperature: float = 0.5,
    anchors: Literal["all", "positive"] = "all",
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
    row blocks are computed twice and no [m, m] array exists.

    Args:
      embeddings: [m, d] float, item embeddings E (need not be normalized).
      labels: [m] int, cluster of each item, 0 ≤ label < m.
      temperature: τ, at least ``MIN_TEMPERATURE``.
      base_temperature: τ₀; τ/τ₀ scales the loss.
      anchors: "all": mean over all m items (CGFedRec). "positive": mean over the items that have
        a positive (AlignFedRec's ICA, and the original SupCon release).

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
      >>> bool(jnp.isclose(loss, 2 / 3 * jnp.log1p(jnp.exp(-10.0))))
      True

    Reference:
      Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, Eq. 2 (L_out).
    """
    if not temperature >= MIN_TEMPERATURE:
        raise InputError(
            f"temperature={temperature} is too small for float32: use at least {MIN_TEMPERATURE}"
        )
    if not base_temperature > 0:
        raise InputError(f"base_temperature={base_temperature} must be positive")
    if anchors not in ("all", "positive"):
        raise InputError(f"anchors={anchors!r} is not known: use 'all' or 'positive'")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise InputError(
            f"labels {labels.shape} do not fit embeddings {embeddings.shape}: one label an item"
        )
    return _loss(embeddings, labels, temperature, base_temperature, anchors)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _loss(embeddings, labels, temperature, base_temperature, anchors):
    unit, _ = _normalize(embeddings)
    clusters = _clusters(unit, labels)
    denominators, _ = _pairwise(unit, clusters.has_positive, temperature, with_gradient=False)
    return _value(unit, clusters, denominators, temperature, base_temperature, anchors)


def _loss_forward(embeddings, labels, temperature, base_temperature, anchors):
    """Loss and gradient together: the gradient is all that the backward pass needs to keep."""
    unit, inverse_norm = _normalize(embeddings)
    clusters = _clusters(unit, labels)
    denominators, pushed = _pairwise(unit, clusters.has_positive, temperature, with_gradient=True)
    value = _value(unit, clusters, denominators, temperature, base_temperature, anchors)

    # d/dz of −Σ_a [ z_a·(Σ_c − z_a)/(|c|−1)/τ − log D_a ]; both terms carry 1/τ, which cancels
    # against the τ of τ/τ₀.
    pulled = 2.0 * clusters.share[:, None] * clusters.others
    scale = 1.0 / (base_temperature * _anchor_count(clusters, anchors))
    gradient = scale * (pushed - pulled)
    # Through the normalization: the part along z is lost, the rest shrinks with ‖E‖.
    along = jnp.sum(gradient * unit, axis=1, keepdims=True)
    return value, (gradient - along * unit) * inverse_norm[:, None]


def _loss_backward(temperature, base_temperature, anchors, gradient, cotangent):
    return cotangent * gradient, None


_loss.defvjp(_loss_forward, _loss_backward)


class _Clusters(NamedTuple):
    others: jax.Array  # [m, d], sum of z over the other items of the cluster
    share: jax.Array  # [m], 1/|P(a)|, or 0 for an item alone
    has_positive: jax.Array  # [m], 1.0 or 0.0


def _normalize(embeddings):
    """Rows of length one, and 1/‖E‖; a zero row stays zero, with 1/‖E‖ taken as 0."""
    square = jnp.sum(embeddings * embeddings, axis=1)
    inverse = jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return embeddings * inverse[:, None], inverse


def _clusters(unit, labels):
    m = unit.shape[0]
    sums = jax.ops.segment_sum(unit, labels, num_segments=m)
    sizes = jax.ops.segment_sum(jnp.ones_like(labels), labels, num_segments=m)[labels]
    has_positive = (sizes > 1).astype(unit.dtype)
    share = has_positive / jnp.maximum(sizes - 1, 1).astype(unit.dtype)
    return _Clusters(sums[labels] - unit, share, has_positive)


def _anchor_count(clusters, anchors):
    if anchors == "all":
        return clusters.share.shape[0]
    return jnp.maximum(jnp.sum(clusters.has_positive), 1.0)


def _value(unit, clusters, denominators, temperature, base_temperature, anchors):
    attraction = clusters.share * jnp.sum(unit * clusters.others, axis=1) / temperature
    # The denominators are sums of exp((s − 1)/τ): |s| ≤ 1 bounds them without a running maximum.
    safe = jnp.where(clusters.has_positive > 0, denominators, 1.0)
    log_denominator = clusters.has_positive * (jnp.log(safe) + 1.0 / temperature)
    per_anchor = attraction - log_denominator
    scale = temperature / (base_temperature * _anchor_count(clusters, anchors))
    return -scale * jnp.sum(per_anchor)


def _pairwise(unit, has_positive, temperature, *, with_gradient):
    """The O(m²) part.

    Returns:
      [m] denominators D_a = Σ_{k≠a} exp((z_a·z_k − 1)/τ), and [m, d]
      Σ_k S_ak (h_a/D_a + h_k/D_k) z_k with h = ``has_positive``, or None without gradient.
    """
    m = unit.shape[0]
    if m * m <= _KEEP_ENTRIES:
        return _pairwise_kept(unit, has_positive, temperature, with_gradient)
    return _pairwise_streamed(unit, has_positive, temperature, with_gradient)


def _pairwise_kept(unit, has_positive, temperature, with_gradient):
    """Upper triangle of tiles, each kept from the first pass to the second."""
    m = unit.shape[0]
    count = -(-m // _TILE_ROWS)
    edges = [round(m * i / count) for i in range(count + 1)]
    spans = [slice(a, b) for a, b in pairwise(edges)]
    rows = [unit[span] for span in spans]
    upper = [(i, j) for i in range(count) for j in range(i, count)]

    tiles = {}
    sums = [jnp.zeros(r.shape[0], unit.dtype) for r in rows]
    for i, j in upper:
        tile = _exp_similarity(rows[i], rows[j], temperature)
        if i == j:
            # Masked, never subtracted: the diagonal is the largest entry of its row.
            tile = jnp.where(jnp.eye(len(tile), dtype=bool), 0.0, tile)
        else:
            sums[j] += jnp.sum(tile, axis=0)
        sums[i] += jnp.sum(tile, axis=1)
        tiles[i, j] = tile
    denominators = jnp.concatenate(sums)
    if not with_gradient:
        return denominators, None

    factors = _factors(has_positive, denominators)
    gradient = [jnp.zeros_like(r) for r in rows]
    for i, j in upper:
        weights = tiles[i, j] * (factors[spans[i]][:, None] + factors[spans[j]][None, :])
        gradient[i] += _dot(weights, rows[j])
        if i != j:
            gradient[j] += _dot(rows[i].T, weights).T
    return denominators, jnp.concatenate(gradient)


def _pairwise_streamed(unit, has_positive, temperature, with_gradient):
    """Row blocks against all items, computed in each pass anew; temporary memory O(block·m)."""
    m, d = unit.shape
    block = max(1, min(m, _STREAM_ENTRIES // m))
    count = -(-m // block)
    padded = count * block - m
    starts = jnp.arange(count) * block
    rows = jnp.pad(unit, ((0, padded), (0, 0))).reshape(count, block, d)

    def similarities(start, z):
        own = start + jnp.arange(block)[:, None] == jnp.arange(m)[None, :]
        return jnp.where(own, 0.0, _exp_similarity(z, unit, temperature))

    denominators = jax.lax.map(
        lambda args: jnp.sum(similarities(*args), axis=1), (starts, rows)
    ).reshape(-1)[:m]
    if not with_gradient:
        return denominators, None

    factors = _factors(has_positive, denominators)
    row_factors = jnp.pad(factors, (0, padded)).reshape(count, block)

    def gradient(args):
        start, z, factor = args
        return _dot(similarities(start, z) * (factor[:, None] + factors[None, :]), unit)

    pushed = jax.lax.map(gradient, (starts, rows, row_factors)).reshape(-1, d)[:m]
    return denominators, pushed


def _exp_similarity(a, b, temperature):
    return jnp.exp((_dot(a, b.T) - 1.0) * (1.0 / temperature))


def _factors(has_positive, denominators):
    return has_positive / jnp.where(has_positive > 0, denominators, 1.0)


def _dot(a, b):
    # Products of unit vectors are divided by τ and exponentiated: TF32 or bfloat16 operands would
    # cost three digits of the loss on an accelerator.
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
