"""Losses on the structure of an item space, and their analytic gradient, from one pairwise pass."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import Alignment, Contrast, Pass, pairwise
from fedjax_rec.losses.sampled import MIN_SAMPLE, sampled_contrast
from fedjax_rec.tiles import grid, pack

__all__ = [
    "MIN_TEMPERATURE",
    "AlignmentTerm",
    "Anchors",
    "ContrastTerm",
    "normalize",
    "structural_loss",
]

MIN_TEMPERATURE = 0.03
"""Below this, exp((s − 1)/τ) of two opposite items underflows float32."""

Anchors = Literal["all", "positive"]


class ContrastTerm(NamedTuple):
    """A supervised contrastive term; see ``supervised_contrastive`` for what it is.

    Attributes:
      temperature: τ, at least ``MIN_TEMPERATURE``.
      base_temperature: τ₀.
      anchors: "all" or "positive".
      weight: factor of the term.
    """

    temperature: float = 0.1
    base_temperature: float = 0.07
    anchors: Anchors = "positive"
    weight: float = 1.0

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not self.temperature >= MIN_TEMPERATURE:
            raise InputError(
                f"temperature={self.temperature} is too small for float32: "
                f"use at least {MIN_TEMPERATURE}"
            )
        if not self.base_temperature > 0:
            raise InputError(f"base_temperature={self.base_temperature} must be positive")
        if self.anchors not in ("all", "positive"):
            raise InputError(f"anchors={self.anchors!r} is not known: use 'all' or 'positive'")
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"contrast weight {self.weight} must be a finite number, 0 or more")


class AlignmentTerm(NamedTuple):
    """A masked Frobenius term; see ``masked_frobenius`` for what it is.

    Attributes:
      threshold: σ, above −1 and at most 1.
      weight: factor of the term.
    """

    threshold: float
    weight: float = 1.0

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not -1 < self.threshold <= 1:
            raise InputError(
                f"threshold={self.threshold} must be above -1 and at most 1, as cosines are"
            )
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"alignment weight {self.weight} must be a finite number, 0 or more")


def structural_loss(
    embeddings: jax.Array,
    *,
    labels: jax.Array | None = None,
    contrast: ContrastTerm | None = None,
    global_similarity: jax.Array | None = None,
    alignment: AlignmentTerm | None = None,
    center: bool = False,
    sample: jax.Array | None = None,
) -> jax.Array:
    r"""The weighted sum of a contrastive and a masked Frobenius term, from one z·zᵀ.

    Equal to ``contrast.weight · supervised_contrastive + alignment.weight · masked_frobenius``, at
    little more than the cost of one of them: the similarities are computed once for both, their
    upper triangle only, and both gradients are one product with z. AlignFedRec's L_ICA and L_GSA
    at its two levels, communities and the similarity matrix itself.

    Args:
      embeddings: [m, d] float, item embeddings E (need not be normalized).
      labels: [m] int, cluster of each item, 0 ≤ label < m; with ``contrast``.
      contrast: the contrastive term, or None.
      global_similarity: what to align to; with ``alignment``. Dense [m, m], or packed
        [tiles, t, t] (``fedjax_rec.tiles``), which is how a large catalogue should keep it. Any
        float dtype. Treated as constant.
      alignment: the masked Frobenius term, or None.
      center: subtract the mean embedding before taking directions; the loss then does not change
        when all items are translated.
      sample: [N] int, distinct items (``draw_sample``) that stand for all items in the contrast's
        denominators: an estimate, with a gradient of its own (``fedjax_rec.losses.sampled``). The
        alignment is exact either way. None: all items, exactly.

    Returns:
      Scalar, in the dtype of ``embeddings``. Differentiable (once, in reverse mode) in
      ``embeddings``; safe under jit and vmap. 0 when neither term is given.

    Raises:
      InputError: a value out of range, or shapes that do not fit.
    """
    if embeddings.ndim != 2:
        raise InputError(f"embeddings must be [items, dim], not of shape {embeddings.shape}")
    target = None
    if contrast is not None:
        contrast.check()
        if labels is None or labels.shape != embeddings.shape[:1]:
            shape = None if labels is None else labels.shape
            raise InputError(
                f"labels {shape} do not fit embeddings {embeddings.shape}: one label an item"
            )
        if sample is not None and not (
            sample.ndim == 1 and MIN_SAMPLE <= len(sample) <= len(embeddings)
        ):
            raise InputError(
                f"sample {tuple(sample.shape)} does not fit embeddings {embeddings.shape}: "
                f"give {MIN_SAMPLE} to {len(embeddings)} distinct items, or None for all"
            )
    if alignment is not None:
        alignment.check()
        target = _packed(global_similarity, embeddings.shape)
    if contrast is None and alignment is None:
        return jnp.zeros((), embeddings.dtype)
    if center:
        embeddings = embeddings - jnp.mean(embeddings, axis=0)
    if contrast is None:
        labels = sample = None
    return _loss(embeddings, labels, target, sample, contrast, alignment)


def normalize(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows of length one, and [m] 1/‖E‖; a zero row stays zero, with 1/‖E‖ taken as 0."""
    square = jnp.sum(embeddings * embeddings, axis=1)
    inverse = jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return embeddings * inverse[:, None], inverse


def _packed(similarity, shape):
    items = shape[0]
    given = None if similarity is None else tuple(similarity.shape)
    if given == (items, items):
        return pack(similarity)
    if given == grid(items).shape:
        return similarity
    raise InputError(
        f"global similarity {given} does not fit embeddings {tuple(shape)}: "
        f"give one entry a pair of items, [{items}, {items}]"
    )


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _loss(embeddings, labels, target, sample, contrast, alignment):
    arguments = embeddings, labels, target, sample, contrast, alignment
    return _evaluate(*arguments, with_gradient=False)[0]


def _loss_forward(embeddings, labels, target, sample, contrast, alignment):
    # The gradient is all that the backward pass needs, and little more work than the value.
    return _evaluate(embeddings, labels, target, sample, contrast, alignment, with_gradient=True)


def _loss_backward(contrast, alignment, gradient, cotangent):
    return cotangent * gradient, None, None, None


_loss.defvjp(_loss_forward, _loss_backward)


def _evaluate(embeddings, labels, target, sample, contrast, alignment, *, with_gradient):
    unit, inverse_norm = normalize(embeddings)
    clusters: Any = None
    scale: Any = None
    push: Any = None
    pull: Any = None
    if contrast is not None:
        clusters = _clusters(unit, labels)
        scale = contrast.weight * contrast.temperature / contrast.base_temperature
        scale = scale / _anchor_count(clusters, contrast.anchors)
        push = Contrast(clusters.has_positive, contrast.temperature, scale)
    if alignment is not None:
        pull = Alignment(target, alignment.threshold, alignment.weight)
    if sample is None:
        pairs = pairwise(unit, push, pull, with_gradient=with_gradient)
    else:
        pairs = sampled_contrast(unit, push, sample, with_gradient=with_gradient)
        if pull is not None:
            pairs = _together(pairs, pairwise(unit, None, pull, with_gradient=with_gradient))

    value = jnp.zeros((), unit.dtype)
    if contrast is not None:
        # The denominators are sums of exp((s − 1)/τ): |s| ≤ 1 bounds them without a running
        # maximum.
        attraction = clusters.share * jnp.sum(unit * clusters.others, axis=1)
        repulsion = clusters.has_positive * (
            jnp.log(pairs.denominators) + 1.0 / contrast.temperature
        )
        value += scale * jnp.sum(repulsion - attraction / contrast.temperature)
    if alignment is not None:
        value += alignment.weight * pairs.distance
    if not with_gradient:
        return value, None

    gradient = pairs.gradient
    if contrast is not None:
        attracted = 2.0 * clusters.share[:, None] * clusters.others / contrast.temperature
        gradient = gradient - scale * attracted
    # Through the normalization: the part along z is lost, the rest shrinks with ‖E‖.
    along = jnp.sum(gradient * unit, axis=1, keepdims=True)
    return value, (gradient - along * unit) * inverse_norm[:, None]


def _together(contrast: Pass, alignment: Pass) -> Pass:
    """Two passes, one of each part, as one."""
    gradient = None if contrast.gradient is None else contrast.gradient + alignment.gradient
    return Pass(contrast.denominators, alignment.distance, gradient)


class _Clusters(NamedTuple):
    others: jax.Array  # [m, d], sum of z over the other items of the cluster
    share: jax.Array  # [m], 1/|P(a)|, or 0 for an item alone
    has_positive: jax.Array  # [m], 1.0 or 0.0


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
