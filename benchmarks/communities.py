"""Communities of a large item graph: 50,000 items and 5 million weighted edges on the host.

Half of the edges join items of one planted group, the others any two. The second case is the one
that a round of AlignFedRec meets before its embeddings have separated: all pairs of 1,682 items.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from harness import Options, Table, main, median
from scipy.sparse import csr_array

from fedjax_rec.errors import InputError
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import communities, cosine_similarity_graph, modularity

__all__ = ["CommunitiesOptions", "Graph", "peak_memory", "planted_graph", "run"]

LIMIT_SECONDS = 60.0
THRESHOLD = 0.1
MB = 1e6


@dataclass(frozen=True)
class CommunitiesOptions(Options):
    """Options of the communities benchmark.

    Attributes:
      items: m of the large graph.
      edges: its edges.
      groups: its planted groups.
      turns: calls of each algorithm, with a seed each; their median counts.
      leidenalg: time leidenalg too, once: ten times slower, at the same modularity.
    """

    items: int = 50_000
    edges: int = 5_000_000
    groups: int = 100
    turns: int = 3
    leidenalg: bool = False


class Graph(NamedTuple):
    """A case: its name, similarities above the diagonal, and the planted groups or None."""

    name: str
    similarity: csr_array
    truth: np.ndarray | None


def run(options: CommunitiesOptions) -> Table:
    """Times each algorithm on both graphs; one row each."""
    if options.turns < 1:
        raise InputError(f"--turns {options.turns} must be at least 1")
    table = Table("communities", "Communities by modularity, on the host", options)
    rng = np.random.default_rng(options.seed)
    large, few = (options.items, options.edges, options.groups), 1_682
    if options.toy:
        large, few = (500, 8_000, 5), 60
    everywhere = np.abs(rng.normal(size=(few, 64)))  # in one orthant: no cosine is below 0
    cases = (
        planted_graph(rng, *large),
        Graph("all pairs", cosine_similarity_graph(everywhere, threshold=THRESHOLD), None),
    )
    for graph in cases:
        _row(table, graph, "leiden", "igraph", options.turns)
        _row(table, graph, "louvain", "igraph", options.turns)
        if options.leidenalg:
            _row(table, graph, "leiden", "leidenalg", 1)
    table.note("Seconds: the whole of communities(), from a sparse matrix to labels.")
    table.note(
        "peak MB: of this whole process meanwhile, JAX included; – where the system keeps none."
    )
    return table


def planted_graph(rng: np.random.Generator, items: int, edges: int, groups: int) -> Graph:
    """A random graph, half of whose edges lie inside planted groups of about the same size.

    Args:
      rng: where it comes from.
      items: m.
      edges: how many, exactly; weights are uniform in [0.5, 1).
      groups: g.

    Raises:
      InputError: more edges than half of what the groups can hold.
    """
    room = items * (items // max(groups, 1)) // 2
    if groups < 1 or items < 2 * groups or edges > room // 2:
        raise InputError(
            f"{edges} edges in {groups} groups of {items} items: use {room // 2} edges or fewer"
        )
    truth = np.sort(rng.integers(0, groups, items))
    start = np.searchsorted(truth, np.arange(groups + 1))
    found = np.zeros(0, np.int64)
    while len(found) < edges:
        some = edges  # a few repeat, or join an item to itself
        i = rng.integers(0, items, some)
        low, high = start[truth[i]], start[truth[i] + 1]
        j = np.where(rng.random(some) < 0.5, rng.integers(low, high), rng.integers(0, items, some))
        pairs = np.minimum(i, j) * items + np.maximum(i, j)
        found = np.unique(np.concatenate([found, pairs[i != j]]))
    chosen = np.sort(rng.choice(found, edges, replace=False))
    row, column = (chosen // items).astype(np.int32), (chosen % items).astype(np.int32)
    weights = rng.uniform(0.5, 1, edges).astype(np.float32)
    return Graph("planted", csr_array((weights, (row, column)), shape=(items, items)), truth)


def peak_memory(*, reset: bool = False) -> int | None:
    """Bytes of the largest resident set of this process since the last reset; Linux only.

    Args:
      reset: start counting anew, from what is resident now, which is the result then.
    """
    if not sys.platform.startswith("linux"):
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _row(
    table: Table,
    graph: Graph,
    method: Literal["leiden", "louvain"],
    implementation: Literal["igraph", "leidenalg"],
    turns: int,
) -> None:
    seconds, scores, labels = [], [], np.zeros(0, np.int32)
    peak_memory(reset=True)
    for seed in range(turns):
        start = time.perf_counter()
        labels = communities(
            graph.similarity,
            threshold=THRESHOLD,
            method=method,
            implementation=implementation,
            seed=seed,
        )
        seconds.append(time.perf_counter() - start)
        scores.append(modularity(graph.similarity, labels, threshold=THRESHOLD))
    peak = peak_memory()
    row: dict[str, Any] = {
        "graph": graph.name,
        "items": graph.similarity.shape[0],
        "edges": graph.similarity.nnz,
        "method": f"{method} ({implementation})",
        "s": median(seconds),
        "modularity": median(scores),
        "communities": int(labels.max()) + 1,
        "NMI": None if graph.truth is None else nmi(labels, graph.truth),
        "peak MB": None if peak is None else peak / MB,
        "verdict": "ok" if median(seconds) < LIMIT_SECONDS else "too slow",
    }
    table.add(**row)


if __name__ == "__main__":
    main(CommunitiesOptions, run, __doc__ or "")
