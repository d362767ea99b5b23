"""Communities of a weighted graph by modularity: Leiden and Louvain."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedjax_rec.errors import InputError, RunWarning

if TYPE_CHECKING:
    from scipy.sparse import sparray

__all__ = ["EmptyGraphWarning", "communities", "modularity"]

_EDGES_AT_ONCE = 1 << 16


class EmptyGraphWarning(RunWarning):
    """No similarity reaches the threshold: every item is a community of its own."""


def communities(
    similarity: np.ndarray | sparray,
    *,
    threshold: float,
    method: Literal["leiden", "louvain"] = "leiden",
    implementation: Literal["igraph", "leidenalg"] = "igraph",
    seed: int = 0,
) -> np.ndarray:
    """Communities of the graph whose edges are the similarities of at least ``threshold``.

    Edges are weighted by similarity; both methods maximize modularity

        Q = Σ_c [ w_c/W − (d_c/2W)² ],

    with w_c the weight inside community c, d_c the sum of its weighted degrees and W all weight.
    Leiden refines Louvain's moves so that communities are connected; it is the better default.

    Args:
      similarity: [m, m] dense, or scipy.sparse, symmetric; only the part above the diagonal is
        read.
      threshold: smallest similarity that makes an edge; must be above 0, since modularity needs
        positive weights.
      method: "leiden" or "louvain". Either is a random search: on graphs with communities the two
        differ by less than a percent of Q, mostly in Leiden's favour; on noise by more.
      implementation: of Leiden. igraph's own C code finds the modularity of leidenalg's in a tenth
        of the time on graphs of millions of edges.
      seed: a whole number. igraph's algorithms draw from a global generator: it is set for the
        call and, whatever happens, set back to Python's ``random``, igraph's default. (igraph
        cannot be asked which generator it had: one of your own must be set again.)

    Returns:
      [m] int32 labels from 0, the largest community first (ties: the one with the earlier item).

    Raises:
      InputError: a matrix that is not square or not finite, a threshold that is not positive, or
        an unknown method.

    Warns:
      EmptyGraphWarning: no edge; the labels are 0 … m − 1.

    Example:
      >>> import numpy as np
      >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
      >>> communities(blocks, threshold=0.5)
      array([0, 0, 0, 1, 1, 1], dtype=int32)

    Reference:
      Traag, Waltman & van Eck, "From Louvain to Leiden", Scientific Reports 2019; Blondel et al.,
      "Fast unfolding of communities in large networks", 2008.
    """
    if method not in ("leiden", "louvain"):
        raise InputError(f"method={method!r} is not known: use 'leiden' or 'louvain'")
    if implementation not in ("igraph", "leidenalg"):
        raise InputError(f"implementation={implementation!r} is not known: 'igraph' or 'leidenalg'")
    m, i, j, weights = _edges(similarity, threshold)
    if not len(weights):
        warnings.warn(
            f"no similarity reaches the threshold {threshold}: every item is its own community",
            EmptyGraphWarning,
            stacklevel=2,
        )
        return np.arange(m, dtype=np.int32)
    import igraph

    # Weights stay an array: as an attribute of the graph they would be a list of objects.
    graph = igraph.Graph(m, _pairs(i, j))
    if method == "leiden" and implementation == "leidenalg":
        import leidenalg

        partition = leidenalg.find_partition(
            graph, leidenalg.ModularityVertexPartition, weights=weights, seed=int(seed) % 2**31
        )
        return _by_size(partition.membership)
    with _seeded_igraph(seed):
        if method == "leiden":
            partition = graph.community_leiden("modularity", weights=weights, n_iterations=-1)
        else:
            partition = graph.community_multilevel(weights=weights)
    return _by_size(partition.membership)


def modularity(similarity: np.ndarray | sparray, labels: np.ndarray, *, threshold: float) -> float:
    """Modularity Q of a partition of the same graph as ``communities``; NaN without an edge.

    Args:
      similarity: [m, m], as in ``communities``.
      labels: [m] int.
      threshold: as in ``communities``.

    Raises:
      InputError: as ``communities``, or labels of another length.

    Example:
      >>> import numpy as np
      >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
      >>> modularity(blocks, np.array([0, 0, 0, 1, 1, 1]), threshold=0.5)
      0.5
    """
    m, i, j, weights = _edges(similarity, threshold)
    _, labels = np.unique(np.asarray(labels), return_inverse=True)
    if labels.shape != (m,):
        raise InputError(f"{len(labels)} labels for {m} items: give one label an item")
    if not len(weights):
        return float("nan")
    first, second, total = labels[i], labels[j], weights.sum()
    same = first == second
    degrees = np.bincount(first, weights, minlength=m) + np.bincount(second, weights, minlength=m)
    return float(weights[same].sum() / total - np.sum((degrees / (2 * total)) ** 2))


def _edges(similarity, threshold) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """m, and the edges: both ends with i < j, and their weights, float64."""
    from scipy.sparse import issparse

    if not threshold > 0:
        raise InputError(f"threshold={threshold} must be above 0: modularity needs such weights")
    if not issparse(similarity):
        similarity = np.asarray(similarity)
    shape = similarity.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"a similarity matrix must be square, not {tuple(shape)}")
    if issparse(similarity):
        entries = similarity.tocsr().tocoo()  # csr adds up repeated entries: no parallel edges
        i, j, values = entries.row, entries.col, entries.data
    else:
        i, j = np.nonzero(np.triu(similarity >= threshold, k=1) | np.isnan(similarity))
        values = similarity[i, j]
    if not np.isfinite(values).all():
        raise InputError("a similarity is not finite")
    keep = (i < j) & (values >= threshold)
    return shape[0], i[keep], j[keep], values[keep].astype(float)


def _pairs(i, j) -> Iterator[tuple[int, int]]:
    """The edges one by one. igraph takes an array four times slower, and a list of all pairs
    would hold a gigabyte of Python numbers at 5 million edges."""
    starts = range(0, len(i), _EDGES_AT_ONCE)
    parts = (slice(start, start + _EDGES_AT_ONCE) for start in starts)
    return chain.from_iterable(zip(i[p].tolist(), j[p].tolist(), strict=True) for p in parts)


def _by_size(membership):
    membership = np.asarray(membership)
    _, first, inverse, counts = np.unique(
        membership, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), np.int32)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse]


@contextmanager
def _seeded_igraph(seed) -> Iterator[None]:
    """igraph draws from one global generator: lend it a seeded one, give it back the default."""
    import igraph

    igraph.set_random_number_generator(random.Random(int(seed)))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
