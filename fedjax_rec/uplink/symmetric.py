"""What a symmetric item-by-item matrix weighs on the wire: every pair of items travels once."""

from __future__ import annotations

from fedjax_rec.errors import InputError
from fedjax_rec.uplink.wire import WireFormat

__all__ = ["pairs", "triangle"]


def triangle(items: int, *, value_bits: int = 32, diagonal: bool = True) -> WireFormat:
    """Format of a dense symmetric [m, m] matrix: its upper triangle.

    The papers count all m² numbers; nobody need send the same number twice.

    Args:
      items: m.
      value_bits: bits of one value.
      diagonal: whether the diagonal travels; not that of cosine similarities.

    Raises:
      InputError: a number of items or bits that is not positive.

    Example:
      >>> triangle(1682).bytes  # 1682 · 1683 / 2 values, where the papers count 2,829,124
      5661612
    """
    if items < 1 or value_bits < 1:
        raise InputError(
            f"a symmetric matrix of {items} items at {value_bits} bits: both must be at least 1"
        )
    values = items * (items + 1) // 2 if diagonal else items * (items - 1) // 2
    return WireFormat((values,), value_bits, floating=True)


def pairs(items: int, count: int, *, value_bits: int = 32) -> WireFormat:
    """Format of a sparse symmetric matrix without diagonal: the smaller of sparse and dense.

    Sparse, each of the ``count`` pairs (i < j) that are not zero costs its value and its index
    among the m·(m − 1)/2 pairs, of ceil(log2) bits; dense, each pair costs its value.

    Args:
      items: m.
      count: pairs of items whose entry is not zero.
      value_bits: bits of one value.

    Raises:
      InputError: a count that m items cannot have, or as ``triangle``.

    Example:
      >>> pairs(100, 10, value_bits=8).bits  # 4950 pairs: 13 bits of index
      210
      >>> pairs(100, 4000, value_bits=8).bits  # dense is smaller
      39600
    """
    dense = triangle(items, value_bits=value_bits, diagonal=False)
    if not 0 <= count <= dense.values:
        raise InputError(f"{count} pairs of {items} items: there are {dense.values}")
    index_bits = max(dense.values - 1, 0).bit_length()
    sparse = WireFormat((count,), value_bits + index_bits, floating=True)
    return min(sparse, dense, key=lambda form: form.bits)
