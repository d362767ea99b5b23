"""One pass over all pairs of items: what the contrastive and the alignment loss have in common.

Both losses are sums over the similarities s_jk = z_j·z_k of all pairs, and the gradient of both is
a symmetric matrix of weights times z:

    contrast:   Σ_a h_a log D_a,  D_a = Σ_{k≠a} exp((s_ak − 1)/τ)
                weights  exp((s_jk − 1)/τ)/τ · (h_j/D_j + h_k/D_k)
    alignment:  Σ_{j≠k, s_jk ≥ σ} (s_jk − g_jk)²
                weights  4·(s_jk − g_jk) where s_jk ≥ σ

So z·zᵀ is computed once for both, its upper triangle only, and their weights are added before the
one product with z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.losses.kernel_choice import chosen_kernel
from fedjax_rec.tiles import Grid, grid

__all__ = [
    "Alignment",
    "Contrast",
    "Pass",
    "dot",
    "factors_of",
    "pairwise",
    "pull_of",
]

# Settings of JAX's matrix precision under which TF32 operands are good enough.
_FAST = (None, "default", "fastest", "bfloat16", "tensorfloat32")

# Where all tiles together stay below this many entries of the full matrix, they are kept from the
# first pass to the second; beyond, each is computed anew and no more than one exists.
_KEEP_ENTRIES = 4096 * 4096


class Contrast(NamedTuple):
    """The log-denominators' part.

    Attributes:
      anchors: [m] h_a, 1.0 where item a is an anchor, else 0.0.
      temperature: τ.
      weight: factor of the term (in the gradient only), [] float.
    """

    anchors: jax.Array
    temperature: float
    weight: jax.Array | float


class Alignment(NamedTuple):
    """The masked Frobenius part.

    Attributes:
      target: [tiles, t, t] packed similarities g, any float dtype.
      threshold: σ.
      weight: factor of the term (in the gradient only), [] float.
    """

    target: jax.Array
    threshold: float
    weight: jax.Array | float


class Pass(NamedTuple):
    """What a pass over the pairs gives; None for a part that was not asked for.

    Attributes:
      denominators: [m] D_a of the contrast; 1 where h_a is 0.
      distance: [] Σ_{j≠k, s_jk ≥ σ} (s_jk − g_jk)² of the alignment.
      gradient: [m, d], of the weighted sum of both terms with respect to z.
    """

    denominators: Any
    distance: Any
    gradient: Any


def pairwise(
    unit: jax.Array,
    contrast: Contrast | None,
    alignment: Alignment | None,
    *,
    with_gradient: bool,
) -> Pass:
    """Runs the pass. Temporary memory O(m·d) beyond 4,096 items, m²/2 entries a part below.

    This is XLA's form, in full float32. Within ``use_kernel("pallas")`` the GPU kernel takes its
    place: O(m·d) always, with TF32 operands unless JAX's matrix precision (``--precision high``)
    asks for more.

    Args:
      unit: [m, d] float32 or float64, rows z of length one (or zero).
      contrast: the contrastive part, or None.
      alignment: the alignment part, or None.
      with_gradient: whether the gradient is wanted.
    """
    choice = chosen_kernel()
    if choice.kernel == "pallas":
        # Here, since that module needs this one, and Pallas takes a third of a second to import.
        from fedjax_rec.losses.pairwise_kernel import pairwise_pallas

        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        return pairwise_pallas(
            unit,
            contrast,
            alignment,
            with_gradient=with_gradient,
            operands="tf32" if precision in _FAST else "float32",
            interpret=choice.interpret,
        )
    m = unit.shape[0]
    run = _kept if m * m <= _KEEP_ENTRIES else _streamed
    return run(grid(m), unit, contrast, alignment, with_gradient)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product in full precision.

    Products of unit vectors are divided by τ and exponentiated, or compared with a threshold, and
    Gram matrices are subtracted from each other: TF32 or bfloat16 operands would cost three digits
    on an accelerator.
    """
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def pull_of(
    similarity: jax.Array, target: jax.Array, inside: Any, alignment: Alignment
) -> jax.Array:
    """s − g of a tile where s reaches the threshold."""
    reached = inside & (similarity >= alignment.threshold)
    return jnp.where(reached, similarity - target, 0.0)


def factors_of(sums: jax.Array, contrast: Contrast) -> tuple[jax.Array, jax.Array]:
    """The denominators, and the gradient factors weight·h/(D·τ) of each item."""
    denominators = jnp.where(contrast.anchors > 0, sums, 1.0)
    scale = contrast.weight / contrast.temperature
    return denominators, scale * contrast.anchors / denominators


def _kept(cut: Grid, unit, contrast, alignment, with_gradient):
    """Tiles of the first pass are kept for the second."""
    rows = [unit[k * cut.side :][: cut.side] for k in range(cut.groups)]
    pushes, pulls = {}, {}
    sums = [jnp.zeros(r.shape[0], unit.dtype) for r in rows]
    distance = jnp.zeros((), unit.dtype)
    for index, (i, j) in enumerate(cut.places):
        similarity = dot(rows[i], rows[j].T)
        inside = ~jnp.eye(len(similarity), dtype=bool) if i == j else True
        if contrast is not None:
            push = _push(similarity, inside, contrast)
            sums[i] += jnp.sum(push, axis=1)
            if i != j:
                sums[j] += jnp.sum(push, axis=0)
            pushes[i, j] = push
        if alignment is not None:
            target = _tile(alignment.target, index, unit.dtype)[: cut.rows(i), : cut.rows(j)]
            pull = pull_of(similarity, target, inside, alignment)
            distance += (1 if i == j else 2) * jnp.sum(pull * pull)
            pulls[i, j] = pull
    denominators: Any = None
    factors: Any = None
    if contrast is not None:
        denominators, factors = factors_of(jnp.concatenate(sums), contrast)
    result = Pass(denominators, None if alignment is None else distance, None)
    if not with_gradient:
        return result

    gradient = [jnp.zeros_like(r) for r in rows]
    for i, j in cut.places:
        weights: Any = 0.0
        if factors is not None:
            fi, fj = (factors[k * cut.side :][: cut.side] for k in (i, j))
            weights += pushes[i, j] * (fi[:, None] + fj[None, :])
        if alignment is not None:
            weights += (4 * alignment.weight) * pulls[i, j]
        gradient[i] += dot(weights, rows[j])
        if i != j:
            gradient[j] += dot(rows[i].T, weights).T
    return result._replace(gradient=jnp.concatenate(gradient))


def _streamed(cut: Grid, unit, contrast, alignment, with_gradient):
    """Tiles are computed when they are needed, one after another."""
    groups = cut.split(unit)
    places = jnp.array(cut.places)

    def tile(index):
        i, j = places[index]
        similarity = dot(groups[i], groups[j].T)
        inside = cut.pairs(i, j)
        push = pull = None
        if contrast is not None:
            push = _push(similarity, inside, contrast)
        if alignment is not None:
            pull = pull_of(
                similarity, _tile(alignment.target, index, unit.dtype), inside, alignment
            )
        return i, j, push, pull

    def first(index, carry):
        sums, distance = carry
        i, j, push, pull = tile(index)
        if push is not None:
            sums = sums.at[i].add(jnp.sum(push, axis=1))
            sums = sums.at[j].add(jnp.where(i == j, 0.0, jnp.sum(push, axis=0)))
        if pull is not None:
            distance += jnp.where(i == j, 1, 2) * jnp.sum(pull * pull)
        return sums, distance

    zero = jnp.zeros(groups.shape[:2], unit.dtype), jnp.zeros((), unit.dtype)
    sums, distance = jax.lax.fori_loop(0, len(places), first, zero)
    denominators: Any = None
    factors: Any = None
    if contrast is not None:
        denominators, factors = factors_of(cut.join(sums), contrast)
        factors = cut.split(factors)
    result = Pass(denominators, None if alignment is None else distance, None)
    if not with_gradient:
        return result

    def second(index, gradient):
        i, j, push, pull = tile(index)
        weights: Any = 0.0
        if push is not None:
            weights += push * (factors[i][:, None] + factors[j][None, :])
        if pull is not None:
            weights += (4 * alignment.weight) * pull
        gradient = gradient.at[i].add(dot(weights, groups[j]))
        return gradient.at[j].add(jnp.where(i == j, 0.0, dot(groups[i].T, weights).T))

    gradient = jax.lax.fori_loop(0, len(places), second, jnp.zeros_like(groups))
    return result._replace(gradient=cut.join(gradient))


def _tile(target, index, dtype):
    """One tile of the target. XLA's CPU backend has no bfloat16: left to itself it would widen all
    tiles ahead of the loop over them. Their bits it leaves alone."""
    if target.dtype != jnp.bfloat16:
        return target[index].astype(dtype)
    bits = jax.lax.bitcast_convert_type(target, jnp.uint16)[index].astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def _push(similarity, inside, contrast):
    """exp((s − 1)/τ) of a tile. Masked, never subtracted: the diagonal is its row's largest."""
    return jnp.where(inside, jnp.exp((similarity - 1.0) * (1.0 / contrast.temperature)), 0.0)
