"""Codes of items: L ids of codewords each, and what can be done to them without any vector."""

from __future__ import annotations

import numpy as np

from fedjax_rec.errors import InputError

__all__ = [
    "code_dtype",
    "distinct_codes",
    "hash_codes",
    "require_codes",
    "require_codewords",
    "require_counts",
]


def hash_codes(items: int, *, levels: int, codewords: int, seed: int) -> np.ndarray:
    """Codes by chance: independent and uniform a level. No content, nothing learnt.

    The alternative to codes that mean something: items share codewords at random, as under a hash.

    Args:
      items: m, 1 or more.
      levels: L, 1 or more.
      codewords: M, 1 or more; M may exceed m.
      seed: of the draw, 0 ≤ seed.

    Returns:
      [m, L], the smallest unsigned integer type that holds M − 1.

    Raises:
      InputError: a count below 1.

    Example:
      >>> hash_codes(4, levels=3, codewords=256, seed=0).shape
      (4, 3)
    """
    if items < 1:
        raise InputError(f"items={items} must be 1 or more")
    require_counts(levels, codewords)
    rng = np.random.default_rng(seed)
    return rng.integers(codewords, size=(items, levels), dtype=code_dtype(codewords))


def distinct_codes(codes: np.ndarray, *, codewords: int, seed: int) -> np.ndarray:
    """Codes in which no two items share all L, where there is room for that.

    Of the items that agree in all codes, the first keeps them; each of the others draws a last code
    that is free beside the levels before, at random. Where all M are taken, it keeps its own.

    Items of equal codes are one item to everybody who only has codebooks: no training can tell them
    apart, nor can codes that are made from what was trained.

    Args:
      codes: [m, L] int, 0 ≤ code < M.
      codewords: M.
      seed: of the draws, 0 ≤ seed.

    Returns:
      [m, L], of the same dtype; the last column may differ.

    Raises:
      InputError: codes that are out of range.

    Example:
      >>> codes = np.array([[0, 1], [0, 1], [1, 1]], np.uint8)
      >>> distinct_codes(codes, codewords=2, seed=0)
      array([[0, 1],
             [0, 0],
             [1, 1]], dtype=uint8)

    Reference:
      Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, which
      adds a level for the same purpose.
    """
    codes = np.array(codes)
    require_codes(codes, codewords)
    _, first = np.unique(codes, axis=0, return_index=True)
    doubled = np.setdiff1d(np.arange(len(codes)), first)
    if not len(doubled):
        return codes
    rng = np.random.default_rng(seed)
    _, prefix = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    prefix = prefix.reshape(-1)
    free: dict[int, list[int]] = {}
    for group in np.unique(prefix[doubled]).tolist():
        taken = codes[prefix == group, -1]
        free[group] = rng.permutation(np.setdiff1d(np.arange(codewords), taken)).tolist()
    for item in doubled.tolist():
        if free[prefix[item]]:
            codes[item, -1] = free[prefix[item]].pop()
    return codes


def code_dtype(codewords: int) -> np.dtype:
    """The smallest unsigned integer type of a code: uint8 up to 256 codewords, then uint16, ….

    Example:
      >>> code_dtype(256), code_dtype(257)
      (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(codewords - 1)


def require_codewords(levels: int, codewords: int, items: int) -> None:
    """Raises InputError for counts below 1, or more codewords than items to learn them from."""
    require_counts(levels, codewords)
    if codewords > items:
        raise InputError(
            f"codewords={codewords} for {items} items: lower codewords to {items} or less"
        )


def require_counts(levels: int, codewords: int) -> None:
    """Raises InputError for counts below 1."""
    for name, count in (("levels", levels), ("codewords", codewords)):
        if count < 1:
            raise InputError(f"{name}={count} must be 1 or more")


def require_codes(codes: np.ndarray, codewords: int) -> None:
    """Raises InputError where an id would be out of its codebook, or wrap around below 0."""
    if not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"codes must be integers, not {codes.dtype}")
    bad = np.argwhere((codes < 0) | (codes >= codewords))
    if len(bad):
        item, level = bad[0].tolist()
        raise InputError(
            f"item {item} has code {codes[item, level]} at level {level + 1}: codes of {codewords} "
            f"codewords go from 0 to {codewords - 1}"
        )
