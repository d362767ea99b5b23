"""Clients compared by principal components: of the items they met, and of their whole tables."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.relations.tables import BLOCK_BYTES, add_blocks

__all__ = ["complementarity", "component_similarity", "first_component", "principal_basis"]

_HIGHEST = jax.lax.Precision.HIGHEST
_WRITTEN_OUT = 64
_PAIR_BYTES = 4 << 20  # of the small matrices that are worked on at a time: they stay in a cache
_NO_DIRECTION = 1e-6  # eigenvalues below this share of the largest are rounding


def principal_basis(rows: jax.Array, mask: jax.Array, components: int) -> jax.Array:
    """The principal subspace of some vectors: a client's own summary of the items it met.

    Args:
      rows: [n, d] float32.
      mask: [n] bool, which of them count.
      components: k, dimensions of the subspace, at most d.

    Returns:
      [k, d] float32: orthonormal rows, eigenvectors of the vectors' covariance by falling
      eigenvalue. Rows are zero where the vectors span fewer dimensions than k.
    """
    count = jnp.maximum(jnp.sum(mask), 1)
    kept = jnp.where(mask[:, None], rows, 0)
    centered = jnp.where(mask[:, None], rows - jnp.sum(kept, axis=0) / count, 0)
    covariance = jnp.matmul(centered.T, centered, precision=_HIGHEST) / count
    scaled = _orthogonal(covariance)
    lengths = jnp.sqrt(_dot(scaled, scaled))
    strongest, which = jax.lax.top_k(lengths, components)
    real = strongest > _NO_DIRECTION * jnp.maximum(strongest[0], 1e-30)
    return jnp.where(real[:, None], scaled[which] / jnp.where(real, strongest, 1)[:, None], 0)


def complementarity(
    bases: jax.Array, present: jax.Array, *, block_bytes: int = _PAIR_BYTES
) -> jax.Array:
    """cos((φ_1 + … + φ_k)/k) of the principal angles φ between every two clients' subspaces.

    The cosines of the angles are the singular values of A·Bᵀ. A direction that a basis lacks is
    orthogonal to all others.

    Args:
      bases: [R, k, d] float32, as ``principal_basis``.
      present: [R] bool.
      block_bytes: most bytes of the [k, k] matrices that are worked on at a time.

    Returns:
      [R, R] float32, from 0 (orthogonal) to 1 (the same subspace); 0 for nobody.
    """
    rows, dimensions, _ = bases.shape
    bases = jnp.where(present[:, None, None], bases, 0)
    size = max(1, min(rows, block_bytes // (4 * dimensions**2 * rows)))

    def one(index: jax.Array, out: jax.Array) -> jax.Array:
        start = jnp.minimum(index * size, rows - size)
        others = jax.lax.dynamic_slice_in_dim(bases, start, size)
        products = jnp.einsum("ikd,jld->lkij", bases, others, precision=_HIGHEST)
        turned = _orthogonal(products)
        cosines = jnp.sqrt(_dot(turned, turned))
        angles = jnp.arccos(jnp.clip(cosines, 0, 1))
        found = jnp.cos(jnp.mean(angles, axis=0))
        return jax.lax.dynamic_update_slice_in_dim(out, found, start, axis=1)

    found = jax.lax.fori_loop(0, -(-rows // size), one, jnp.zeros((rows, rows)))
    # The cosine of a right angle is 0 but for rounding.
    return jnp.where(present[:, None] & present[None, :], jnp.maximum(found, 0), 0)


def first_component(
    tables: jax.Array, present: jax.Array, *, block_bytes: int = BLOCK_BYTES
) -> jax.Array:
    """Every client's items along the first principal component of its table.

    Args:
      tables: [R, m, d] float32.
      present: [R] bool.
      block_bytes: most bytes of a block of items of all clients.

    Returns:
      [R, m] float32, the items' coordinates, of mean 0; 0 for nobody. Their sign is arbitrary.
    """
    rows, items, dim = tables.shape

    def add(sums: tuple, block: jax.Array, items: jax.Array) -> tuple:
        total, products = sums
        product = jnp.einsum("kmd,kme->kde", block, block, precision=_HIGHEST)
        return total + jnp.sum(block, axis=1), products + product

    nothing = jnp.zeros((rows, dim)), jnp.zeros((rows, dim, dim))
    total, products = add_blocks(add, nothing, tables, present, block_bytes=block_bytes)
    mean = total / items
    covariance = products / items - mean[:, :, None] * mean[:, None, :]
    scaled = _orthogonal(jnp.moveaxis(covariance, 0, -1))
    lengths = jnp.sqrt(_dot(scaled, scaled))
    first = jnp.argmax(lengths, axis=0)
    longest = jnp.take_along_axis(scaled, first[None, None], axis=0)[0] / jnp.maximum(
        jnp.max(lengths, axis=0), 1e-30
    )
    direction = longest.T
    along = jnp.sum(tables * direction[:, None, :], axis=-1)
    along = along - jnp.sum(mean * direction, axis=-1, keepdims=True)
    return jnp.where(present[:, None], along, 0)


def component_similarity(along: jax.Array, present: jax.Array) -> jax.Array:
    """1/(1 + ‖t_k − t_j‖) of every two clients' ``first_component``, or ‖t_k + t_j‖ where smaller.

    Args:
      along: [R, m] float32.
      present: [R] bool.

    Returns:
      [R, R] float32, from 0 to 1; 1 of a client with itself, 0 for nobody.
    """
    products = jnp.matmul(along, along.T, precision=_HIGHEST)
    squares = jnp.diagonal(products)
    apart = squares[:, None] + squares[None, :] - 2 * jnp.abs(products)
    apart = jnp.where(jnp.eye(len(along), dtype=bool), 0, jnp.maximum(apart, 0))
    return jnp.where(present[:, None] & present[None, :], 1 / (1 + jnp.sqrt(apart)), 0)


def _orthogonal(columns):
    """Columns [n, r, …] of many small matrices, turned until they are orthogonal: one-sided Jacobi.

    Their lengths are then the singular values. Of a symmetric matrix without negative eigenvalues
    column i is λ_i·v_i, an eigenvalue times its eigenvector. No column moves to another place.

    LAPACK would take the matrices one by one, microseconds each, and there is one for every two
    clients. Nor can it be used in a program of several CPU devices: jaxlib's batched routines wait
    on a thread of the pool for others of it, and with all devices at it none is left.

    Half of the columns meet the other half in one step, and places change between steps as in a
    round-robin tournament (Brent and Luk, 1985).
    """
    count = len(columns)
    if count == 1:
        return columns
    if count % 2:
        columns = jnp.concatenate([columns, jnp.zeros_like(columns[:1])])
    half = len(columns) // 2
    circle = [*range(half), *range(len(columns) - 1, half - 1, -1)]
    moved = [circle[0], circle[-1], *circle[1:-1]]  # all but the first move on by one place
    seated = jnp.array([who for _, who in sorted(zip(circle, moved, strict=True))])

    def turn(_, columns):
        one, other = columns[:half], columns[half:]
        product, difference = _dot(one, other), _dot(other, other) - _dot(one, one)
        # The smaller root t of t² + 2ζt − 1 = 0, ζ = difference/(2·product), without dividing by
        # the product, which may be 0: then t is 0, and nothing turns.
        root = jnp.sqrt(difference * difference + 4 * product * product)
        side = jnp.where(difference < 0, -1.0, 1.0)
        tangent = 2 * product * side / jnp.maximum(jnp.abs(difference) + root, 1e-30)
        cosine = jax.lax.rsqrt(1 + tangent * tangent)
        # Without the barrier every entry of a matrix would find its angle anew.
        cosine, sine = jax.lax.optimization_barrier((cosine, cosine * tangent))
        cosine, sine = cosine[:, None], sine[:, None]
        new = jnp.concatenate([cosine * one - sine * other, sine * one + cosine * other])
        return new[seated]

    # What float32 needs, found by trying: 4 for 4 columns, 11 for 64.
    sweeps = 2 * len(columns).bit_length() - 1
    columns = jax.lax.fori_loop(0, sweeps * (len(columns) - 1), turn, columns)
    return columns[:count]


def _dot(a, b):
    """Sum over axis 1. Written out where that is short: it then needs no loop of its own."""
    if a.shape[1] > _WRITTEN_OUT:
        return jnp.sum(a * b, axis=1)
    return sum(a[:, i] * b[:, i] for i in range(a.shape[1]))
