"""Codebooks on the device: items rebuilt from codes, two channels mixed, codebooks fitted to items.

An item is L codes, one a level; a codebook has M codewords a level. The server makes the codes (see
``fedjax_rec.server``); what a client trains and sends is the codebook.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError

__all__ = [
    "codebook_gradient",
    "codebook_mse",
    "mix",
    "normal_product",
    "reconstruct",
    "sum_by_code",
]

_BLOCK = 128  # items at a time in normal_product: 256 KB of them at d = 512, a part of the cache


def reconstruct(codebook: jax.Array, codes: jax.Array) -> jax.Array:
    """Items as sums of their codewords: v_i = Σ_ℓ B^ℓ[q^ℓ(i)].

    Args:
      codebook: [L, M, d] float, B: M codewords in each of L levels.
      codes: [n, L] of any integer type, q: an item's codeword in each level, 0 ≤ q < M. Not
        checked, since values are not known while tracing; rows of padding need codes in range too.

    Returns:
      [n, d] in the codebook's dtype. Differentiable (in reverse mode) in ``codebook``, by one
      scatter-add of the cotangent a level; safe under jit and vmap.

    Raises:
      InputError: shapes that do not fit, or codes that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> codebook = jnp.array([[[10.0], [20.0]], [[1.0], [2.0]]])  # two levels of two codewords
      >>> reconstruct(codebook, jnp.array([[0, 1], [1, 1], [1, 0]])).ravel()
      Array([12., 22., 21.], dtype=float32)

    Reference:
      RQFedRec, Eq. 9: one of its two channels.
    """
    _check(codebook, codes)
    return _gathered(codebook, codes)


def sum_by_code(items: jax.Array, codes: jax.Array, *, codewords: int) -> jax.Array:
    """Items added up over those that share a codeword, in each level: Σ_{i: q^ℓ(i) = k} v_i.

    The transpose of ``reconstruct``, which is linear in the codebook.

    Args:
      items: [n, d] float, v. Set to 0 those that are not to count.
      codes: [n, L] integers, as ``reconstruct`` takes them.
      codewords: M.

    Returns:
      [L, M, d]; 0 for a codeword that no item uses.

    Raises:
      InputError: shapes that do not fit, codes that are not integers, or no codewords.

    Example:
      >>> import jax.numpy as jnp
      >>> sum_by_code(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([[0], [1], [1]]), codewords=2)
      Array([[[1.],
              [6.]]], dtype=float32)
    """
    if codewords < 1:
        raise InputError(f"codewords={codewords} must be at least 1")
    _check_codes(codes)
    if items.ndim != 2 or len(items) != len(codes):
        raise InputError(
            f"items of shape {items.shape} do not fit codes of shape {codes.shape}: "
            f"they must be ({len(codes)}, dim)"
        )
    return _scattered(items, codes, (codes.shape[1], codewords, items.shape[1]))


def normal_product(codebook: jax.Array, codes: jax.Array, weights: jax.Array) -> jax.Array:
    """Items made, weighted and added up by code again: AᵀWA·B, where A·B is ``reconstruct``.

    The matrix of the normal equations of a least-squares fit of codebooks. The same as
    ``sum_by_code(weights · reconstruct(…))``, but a few items at a time: the [n, d] items, which
    are larger than the codebook, are then never written to memory, nor read once a level.

    Args:
      codebook: [L, M, d] float, B.
      codes: [n, L] integers, as ``reconstruct`` takes them.
      weights: [n] float, the diagonal of W.

    Returns:
      [L, M, d]; 0 for a codeword that no item uses.

    Raises:
      InputError: shapes that do not fit, or codes that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> codebook = jnp.array([[[10.0], [20.0]]])
      >>> normal_product(codebook, jnp.array([[0], [1], [1]]), jnp.array([1.0, 1.0, 3.0])).ravel()
      Array([10., 80.], dtype=float32)
    """
    _check(codebook, codes)
    if weights.shape != codes.shape[:1]:
        raise InputError(
            f"weights of shape {weights.shape} do not fit codes of shape {codes.shape}: "
            f"they must be ({len(codes)},)"
        )
    levels, codewords, dim = codebook.shape
    table = codebook.reshape(levels * codewords, dim)
    size = max(min(_BLOCK, len(codes)), 1)
    blocks = max(-(-len(codes) // size), 1)
    padding = blocks * size - len(codes)
    rows = jnp.pad(_table_rows(codes, codewords), ((0, padding), (0, 0)))
    weights = jnp.pad(weights, (0, padding))  # padding weighs nothing

    def block(index: jax.Array, sums: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice_in_dim(rows, index * size, size)
        weight = jax.lax.dynamic_slice_in_dim(weights, index * size, size)
        return _add_by_row(sums, own, weight[:, None] * _sum_of_rows(table, own))

    sums = jax.lax.fori_loop(0, blocks, block, jnp.zeros_like(table))
    return sums.reshape(codebook.shape)


def mix(semantic: jax.Array, collaborative: jax.Array, weight: jax.Array | float) -> jax.Array:
    """Two channels mixed: (1 − λ)·s + λ·c.

    At λ = 0 the result is ``semantic``, bit by bit, and at λ = 1 ``collaborative``: the other
    channel has no say even where it holds NaN or inf, and no gradient.

    Args:
      semantic: [n, d] float, s (any shape will do).
      collaborative: of the same shape, c.
      weight: [] λ, from 0 to 1. It comes from a schedule; do not differentiate in it: at both ends
        its gradient is 0, which is not the slope.

    Returns:
      [n, d].

    Raises:
      InputError: channels of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> mix(jnp.array([1.0, 2.0]), jnp.array([5.0, jnp.nan]), 0.0)
      Array([1., 2.], dtype=float32)
      >>> mix(jnp.array([1.0, 2.0]), jnp.array([5.0, 6.0]), 0.25)
      Array([2., 3.], dtype=float32)

    Reference:
      RQFedRec, Eq. 9.
    """
    if semantic.shape != collaborative.shape:
        raise InputError(
            f"the channels must have one shape, not {semantic.shape} (semantic) and "
            f"{collaborative.shape} (collaborative)"
        )
    blend = (1 - weight) * semantic + weight * collaborative
    # Selected, not multiplied by 0: 0 · NaN is NaN, and −0 + 0 is +0.
    return jnp.where(weight == 0, semantic, jnp.where(weight == 1, collaborative, blend))


def codebook_mse(
    codebook: jax.Array, codes: jax.Array, target: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """How far the items rebuilt from codes are from given ones, in the mean square.

        L(B) = 1/(n·d) · Σ_i ‖v_i − Σ_ℓ B^ℓ[q^ℓ(i)]‖²,

    a mean over all entries of the n items that the mask keeps, as torch's ``MSELoss``.

    Args:
      codebook: [L, M, d] float, B.
      codes: [n, L] integers, as ``reconstruct`` takes them.
      target: [n, d] float, the items v.
      mask: [n] bool, which items count; None: all. What a masked target holds, even NaN, does not
        matter.

    Returns:
      [] loss; 0, with zero gradient, where nothing counts. Safe under jit, grad and vmap.

    Raises:
      InputError: shapes that do not fit, or codes that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> codebook = jnp.array([[[10.0], [20.0]], [[1.0], [2.0]]])
      >>> codebook_mse(codebook, jnp.array([[0, 1], [1, 0]]), jnp.array([[12.0], [24.0]]))
      Array(4.5, dtype=float32)

    Reference:
      RQFedRec, a client's fit of its codebooks to its trained items.

    Differs from the paper: the mean over the d columns, too. It is a constant factor, which Adam
    does not see; under SGD the learning rate is d times that of a mean over items only.
    """
    error, entries = _error(codebook, codes, target, mask)
    return jnp.sum(error**2) / entries


def codebook_gradient(
    codebook: jax.Array, codes: jax.Array, target: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """``codebook_mse`` and its gradient in the codebook, from one residual:

        ∂L/∂B^ℓ[k] = 2/(n·d) · Σ_{i: q^ℓ(i) = k} (Σ_ℓ' B^ℓ'[q^ℓ'(i)] − v_i).

    A codeword that no item uses has gradient 0. Arguments and errors as ``codebook_mse``.

    Returns:
      [] loss and [L, M, d] gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> codebook = jnp.array([[[10.0], [20.0]]])
      >>> loss, gradient = codebook_gradient(codebook, jnp.array([[1]]), jnp.array([[17.0]]))
      >>> float(loss), gradient.ravel()
      (9.0, Array([0., 6.], dtype=float32))
    """
    error, entries = _error(codebook, codes, target, mask)
    # Scaled after the sum: the error itself, which the loss needs too, is then written only once.
    gradient = _scattered(error, codes, codebook.shape) * (2 / entries)
    return jnp.sum(error**2) / entries, gradient


def _error(codebook, codes, target, mask):
    """[n, d] reconstruction less target, 0 where masked; and how many entries count, at least 1."""
    _check(codebook, codes)
    rows, dim = codes.shape[0], codebook.shape[2]
    if target.shape != (rows, dim):
        raise InputError(f"target of shape {target.shape} does not fit: it must be ({rows}, {dim})")
    if mask is not None and mask.shape != (rows,):
        raise InputError(f"mask of shape {mask.shape} does not fit: it must be ({rows},)")
    error = _gathered(codebook, codes) - target
    if mask is None:
        return error, jnp.asarray(max(rows, 1) * dim, error.dtype)
    kept = mask.astype(bool)
    # Masked before the square: a NaN behind the mask would come back through the gradient.
    error = jnp.where(kept[:, None], error, 0)
    return error, jnp.maximum(jnp.sum(kept), 1).astype(error.dtype) * dim


def _check(codebook, codes):
    if codebook.ndim != 3 or 0 in codebook.shape:
        raise InputError(
            f"codebook must be [levels, codewords, dim], none of them 0, not of shape "
            f"{codebook.shape}"
        )
    _check_codes(codes)
    if codes.shape[1] != len(codebook):
        raise InputError(
            f"codes of shape {codes.shape} do not fit a codebook of {len(codebook)} levels: "
            f"they must be ({len(codes)}, {len(codebook)})"
        )


def _check_codes(codes):
    if codes.ndim != 2 or not jnp.issubdtype(codes.dtype, jnp.integer):
        raise InputError(
            f"codes must be [items, levels] integers, not {codes.dtype} of shape {codes.shape}"
        )


@jax.custom_vjp
def _gathered(codebook, codes):
    levels, codewords, dim = codebook.shape
    table = codebook.reshape(levels * codewords, dim)
    items = _sum_of_rows(table, _table_rows(codes, codewords))
    # XLA's CPU backend would fuse the gathers into everything that uses the items, and gather anew
    # for each: two channels mixed and used three times took 30 times as long at n = 3706, d = 512.
    return jax.lax.optimization_barrier(items)


def _forward(codebook, codes):
    return _gathered(codebook, codes), (codebook, codes)  # of the codebook only its shape is used


def _backward(saved, cotangent):
    codebook, codes = saved
    return _scattered(cotangent, codes, codebook.shape), None


_gathered.defvjp(_forward, _backward)


def _scattered(items, codes, shape):
    """The transpose of ``_gathered``: [n, d] rows added up by code, [L, M, d]."""
    levels, codewords, dim = shape
    rows = _table_rows(codes, codewords)
    table = jnp.zeros((levels * codewords, dim), items.dtype)
    return _add_by_row(table, rows, items).reshape(shape)


def _sum_of_rows(table, rows):
    """[n, d]: for each of n items the sum of its L rows, [n, L], of a table."""
    # Written out, so that one pass reads L rows and writes one: a step of fitting then takes two
    # thirds of what it takes with a loop over levels, which writes the items L times.
    items = table[rows[:, 0]]
    for level in range(1, rows.shape[1]):
        items = items + table[rows[:, level]]
    return items


def _add_by_row(table, rows, items):
    """The transpose: [n, d] items added to their L rows, [n, L], of a table."""
    # A loop, not one scatter to [n, L] rows: that would write every item L times first.
    return jax.lax.fori_loop(
        0, rows.shape[1], lambda level, sums: sums.at[rows[:, level]].add(items), table
    )


def _table_rows(codes, codewords):
    """[n, L] rows of the codewords in a table of all levels, one after the other."""
    # Widened first: a uint8 holds the rows of the first level only.
    return codes.astype(jnp.int32) + codewords * jnp.arange(codes.shape[1], dtype=jnp.int32)
