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

    Computed in row blocks: no [m, m] array exists. A zero vector is similar to nothing.

    Args:
      vectors: [m, d] float, finite.
      threshold: smallest similarity kept, above 0 and at most 1.

    Returns:
      [m, m] scipy.sparse.csr_array, float32, entries (i, j) with i < j.

    Raises:
      InputError: a threshold out of range, or a vector that is not finite.
    """
    from scipy.sparse import csr_array

    if not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold} must be above 0 and at most 1")
    vectors = require_finite(vectors).astype(np.float32)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0, norm, 1)

    m = len(unit)
    block = max(1, _BLOCK_ENTRIES // max(m, 1))
    rows, columns, values = [], [], []
    for start in range(0, m, block):
        similarity = unit[start : start + block] @ unit[start:].T
        i, j = np.nonzero(np.triu(similarity >= threshold, k=1))
        rows.append(i + start)
        columns.append(j + start)
        values.append(similarity[i, j])
    parts = [np.concatenate(x) for x in (values, rows, columns)] if rows else [[], [], []]
    return csr_array((parts[0], (parts[1], parts[2])), shape=(m, m), dtype=np.float32)
