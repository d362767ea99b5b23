r"""Contrastive denominators estimated from a sample of the items, where all pairs are too many.

The pairwise pass costs O(m²·d): at m = 25,612 items that is seconds a step. Here every item is
compared with N items S, drawn uniformly without replacement, and the cost is O(m·N·d). With
e_ak = exp((s_ak − 1)/τ) and n_a = N − [a ∈ S], the items of S other than a:

    D̂_a = (m − 1)/n_a · Σ_{k ∈ S∖a} e_ak            estimates  D_a = Σ_{k≠a} e_ak.

**Values.** D̂_a is unbiased: what is known of the denominator, that a itself is no part of it, is
exact, and every other item is in S∖a with probability n_a/(m − 1), whether a is drawn or not. Its
logarithm is not: by Jensen's inequality E log D̂_a ≈ log D_a − Var(D̂_a)/(2·D_a²), so a sampled loss
is too low, by O(1/N).

**Gradients.** The exact gradient of Σ_a h_a log D_a is Σ_{k≠j} (h_j·p_jk + h_k·p_kj)·z_k/τ with
p_ak = e_ak/D_a: item j is pushed as an anchor, and as a negative of every other anchor. Both halves
are sums over the same k, because e is symmetric. So both are estimated from k ∈ S, for every j:

    as an anchor     Σ_{k∈S∖j} p̂_jk·z_k                 p̂_jk = e_jk / Σ_{l∈S∖j} e_jl
    as a negative    (m − 1)/n_j · Σ_{k∈S∖j} p̂_kj·z_k   p̂_kj = e_kj / (e_kj + r·Σ_{l∈S∖{j,k}} e_kl)

The first is the self-normalized importance sampler of the softmax. In the second, r = (m − 2) /
(n_j − 1): of anchor k's denominator the term of j is known, and only the rest is scaled up. So p̂
is never above 1, however close j and k are (dividing by D̂_k would have no bound). The numerators
are unbiased, the denominators stand below a fraction line: both halves are biased by O(1/N), their
standard deviation is O(1/√N), and at N = m both are exact.

**This is not the derivative of the sampled value.** That one estimates the second half from the
anchors' side: the N drawn items are pushed by all anchors and m/N times too far, all others not at
all. It is biased by O(1/N) too, and costs one more product. On the embeddings of trained clients
its error is two to seven times larger for N ≥ 256; on N(0, 1), before any training, it is smaller
by √2, since there one sample's error enters both of our halves alike
(benchmarks/contrast_sample.py measures both).

Positives are drawn like all other items. To add all of an anchor's own cluster exactly would cost
O(Σ_c n_c²·d), which one large community makes O(m²·d), and clusters have no static size. Where a
denominator is mostly its own cluster's (tight clusters that N items hit a few times each), the
estimate is poor: take N well above the number of clusters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import Contrast, Pass, dot
from fedjax_rec.tiles import grid

__all__ = ["MIN_SAMPLE", "check_sample_size", "draw_sample", "sampled_contrast"]

MIN_SAMPLE = 3
"""Two items and one more: the least that leaves a rest to scale up."""


def check_sample_size(count: int) -> None:
    """Raises InputError for a sample from which nothing can be estimated."""
    if count < MIN_SAMPLE:
        raise InputError(
            f"contrast_sample={count} must be at least {MIN_SAMPLE}; leave it out for all items"
        )


def draw_sample(key: jax.Array, num_items: int, count: int | None) -> jax.Array | None:
    """Draws the items that stand for all items in the denominators.

    Args:
      key: PRNG key.
      num_items: m.
      count: N; None: all.

    Returns:
      [N] int32, distinct items, every set of N equally likely; None, for the exact loss, where N
      is not below m.

    Raises:
      InputError: N below ``MIN_SAMPLE``.

    Example:
      >>> import jax
      >>> draw_sample(jax.random.key(0), 1000, 64).shape
      (64,)
      >>> draw_sample(jax.random.key(0), 50, 64) is None
      True
    """
    if count is None:
        return None
    check_sample_size(count)
    if count >= num_items:
        return None
    # The N largest of m uniform numbers. Ties, one pair in eight million, go to the lower index.
    # On a CPU 30 times as fast as jax.random.choice, which sorts all items twice.
    return jax.lax.top_k(jax.random.uniform(key, (num_items,)), count)[1]


def sampled_contrast(
    unit: jax.Array, contrast: Contrast, sample: jax.Array, *, with_gradient: bool
) -> Pass:
    """Estimates what ``pairwise`` computes of a contrast. Temporary memory O((m + N)·(d + N)).

    One pass suffices, and every similarity is computed once: what a row needs of the others, the
    sampled anchors' sums, is an [N, N] matrix.

    Args:
      unit: [m, d] float32 or float64, rows z of length one (or zero).
      contrast: the contrastive part.
      sample: [N] int, distinct items.
      with_gradient: whether the gradient is wanted.

    Returns:
      ``denominators`` are D̂, [m]; 1 where h is 0. ``distance`` is None.
    """
    m, count = unit.shape[0], sample.shape[0]
    cut = grid(m)
    drawn = unit[sample]
    own_weight = contrast.anchors[sample]  # [N] h_k
    drawn_sums = jnp.sum(_push(drawn, sample, drawn, sample, contrast), axis=1)
    is_drawn = jnp.zeros(m, unit.dtype).at[sample].set(1.0)

    def rows(block):
        vectors, items, anchors, among = block
        push = _push(vectors, items, drawn, sample, contrast)
        sums = jnp.sum(push, axis=1)
        scale = (m - 1) / (count - among)
        denominators = jnp.where(anchors > 0, scale * sums, 1.0)
        if not with_gradient:
            return denominators, None
        # Of the sampled anchors' sums, what is left without this row's item, if it is drawn.
        rest = jnp.maximum(drawn_sums[None, :] - among[:, None] * push, 0.0)
        whole = push + ((m - 2) / (count - 1 - among))[:, None] * rest
        as_anchor = (anchors / jnp.where(sums > 0, sums, 1.0))[:, None]
        as_negative = scale[:, None] * own_weight[None, :] / jnp.where(whole > 0, whole, 1.0)
        return denominators, dot(push * (as_anchor + as_negative), drawn)

    blocks = (unit, jnp.arange(m, dtype=jnp.int32), contrast.anchors, is_drawn)
    parts = jax.lax.map(rows, tuple(cut.split(x) for x in blocks))
    denominators = cut.join(parts[0])
    if not with_gradient:
        return Pass(denominators, None, None)
    gradient = (contrast.weight / contrast.temperature) * cut.join(parts[1])
    return Pass(denominators, None, gradient)


def _push(rows, row_items, columns, column_items, contrast):
    """exp((s − 1)/τ) of a block, 0 for an item with itself."""
    similarity = dot(rows, columns.T)
    push = jnp.exp((similarity - 1.0) * (1.0 / contrast.temperature))
    return jnp.where(row_items[:, None] == column_items[None, :], 0.0, push)
