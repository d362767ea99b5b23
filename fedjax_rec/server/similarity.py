"""The sparse graph of similar items, from their embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.server.clustering import require_finite

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["cosine_similarity_graph"]

_BLOCK_ENTRIES = 4_000_000


def cosine_similarity_graph(vectors: np.ndarray, *, threshold: float) -> csr_array:
    """Cosine similarities of at least ``threshold``, as a sparse upper triangle.

    Computed in float32 row blocks: no [m, m] array exists. A zero vector is similar to nothing.

    Args:
      vectors: [m, d] float, finite.
      threshold: smallest similarity kept, above 0 and at most 1.

    Returns:
      [m, m] scipy.sparse.csr_array, float32, entries (i, j) with i < j.

    Example:
      >>> import numpy as np
      >>> cosine_similarity_graph(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), threshold=0.5).nnz
      1

    Raises:
      InputError: a threshold out of range, or a vector that is not finite.
    """
    from scipy.sparse import csr_array

    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold} must be above 0 and at most 1")
    vectors = require_finite(vectors).astype(np.float64)
    # Norms in float64: in float32 the squares of a tiny row vanish, and it would pass for zero.
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norm > 0, norm, 1)).astype(np.float32)

    m = len(unit)
    block = max(1, _BLOCK_ENTRIES // max(m, 1))
    rows, columns, values = [], [], []
    for start in range(0, m, block):
        similarity = unit[start : start + block] @ unit[start:].T
        i, j = np.nonzero(np.triu(similarity >= threshold, k=1))
        rows.append(i + start)
        columns.append(j + start)
        values.append(similarity[i, j])
    if not rows:
        return csr_array((m, m), dtype=np.float32)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return csr_array(entries, shape=(m, m))
