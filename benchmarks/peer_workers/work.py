"""The work that every simulator of `peers.py` does, as one file that all of them read.

Only NumPy is imported here, since this runs in every peer's own environment.

One round, PFedRec's (`fedjax_rec.methods.pfedrec` names the paper): each client takes the server's
item table [m, d] and its own head (w [d], b); draws `negatives` items per positive, uniform over
those that it does not hold; shuffles; per batch steps the head, then, on a fresh forward pass, the
rows of the table that the batch gathers, both by SGD on the batch's mean binary cross-entropy. The
server's new table is the mean of the clients'.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

__all__ = [
    "MARK",
    "Outcome",
    "Work",
    "batches",
    "draw",
    "load",
    "mean_loss",
    "peak_rss_bytes",
    "report",
    "save",
]

SCORED = 1_000  # clients, at most, that `mean_loss` looks at
MARK = "peer: "  # starts the one line of a worker's output that is meant for `peers.py`


@dataclass(frozen=True)
class Work:
    """What is trained, and how.

    Attributes:
      starts: [K + 1] int64; client k holds ``positives[starts[k]:starts[k + 1]]``.
      positives: int32 training items, ascending within a client.
      items: [m, d] float32, the server's first item table.
      head: [d + 1] float32, w then b, from which every client's own head starts.
      batch_size: samples a batch; the last of an epoch may be short.
      negatives: sampled negatives per positive, drawn anew every round.
      local_epochs: passes over a round's samples.
      lr: the heads' SGD rate.
      item_lr: the table's SGD rate.
      warmup: rounds before those that count (compilation, first calls).
      rounds: rounds that count.
      seed: of everything random.
    """

    starts: np.ndarray
    positives: np.ndarray
    items: np.ndarray
    head: np.ndarray
    batch_size: int
    negatives: int
    local_epochs: int
    lr: float
    item_lr: float
    warmup: int
    rounds: int
    seed: int

    @property
    def num_clients(self) -> int:
        return len(self.starts) - 1

    @property
    def num_items(self) -> int:
        return len(self.items)

    def of(self, client: int) -> np.ndarray:
        """[P] int32, the client's positives."""
        return self.positives[self.starts[client] : self.starts[client + 1]]

    def samples_of(self, client: int) -> int:
        """How many samples the client trains on in one epoch."""
        return int(self.starts[client + 1] - self.starts[client]) * (1 + self.negatives)


@dataclass(frozen=True)
class Outcome:
    """What a worker measured and left.

    Attributes:
      round_seconds: wall time of each counted round: negatives, batches, training and the server.
      sampling_seconds: the part of each that drew negatives and made batches; empty where a
        simulator does not keep the two apart.
      peak_rss_bytes: of the worker's process alone.
      items: [m, d] float32, the server's table after the last round.
      heads: [K, d + 1] float32, the clients' heads; [1, d + 1] where all share one.
    """

    round_seconds: Sequence[float]
    sampling_seconds: Sequence[float]
    peak_rss_bytes: int
    items: np.ndarray
    heads: np.ndarray


def save(work: Work, path: Path) -> None:
    """Writes the work as an ``.npz`` without pickles."""
    np.savez(path, **{field.name: getattr(work, field.name) for field in fields(Work)})


@functools.lru_cache(maxsize=1)
def load(path: str | Path) -> Work:
    """Reads what ``save`` wrote; once a process, since a simulator may ask for every client."""
    with np.load(path, allow_pickle=False) as stored:
        # Numbers are stored as [] arrays: item() makes Python's own of them.
        found = {f.name: stored[f.name] for f in fields(Work)}
    return Work(**{name: x if x.ndim else x.item() for name, x in found.items()})


def draw(work: Work, client: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A round's samples of one client, shuffled: items [N] int32 and labels [N] float32.

    With the client's items f_0 < f_1 < …, the r-th item that it does not hold is
    r + #{j : f_j − j ≤ r}: no rejection, so the cost does not depend on what a client holds.
    """
    held = work.of(client)
    rank = rng.integers(work.num_items - len(held), size=len(held) * work.negatives)
    negatives = rank + np.searchsorted(held - np.arange(len(held)), rank, side="right")
    items = np.concatenate([held, negatives.astype(np.int32)])
    order = rng.permutation(len(items))
    return items[order], (order < len(held)).astype(np.float32)


def batches(
    work: Work, client: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All batches of a client's round, of all its epochs: (items [B], labels [B]) each."""
    items, labels = draw(work, client, rng)
    found = []
    for epoch in range(work.local_epochs):
        if epoch:
            order = rng.permutation(len(items))
            items, labels = items[order], labels[order]
        for start in range(0, len(items), work.batch_size):
            stop = start + work.batch_size
            found.append((items[start:stop], labels[start:stop]))
    return found


def mean_loss(work: Work, items: np.ndarray, heads: np.ndarray) -> float:
    """Mean binary cross-entropy over clients, on one draw of samples, in float64.

    The same samples for whoever trained: what a peer left behind is judged by this file alone. Of
    many clients, every so many-th is looked at.

    Args:
      work: the work.
      items: [m, d], as in ``Outcome``.
      heads: [K, d + 1] or [1, d + 1], as in ``Outcome``.
    """
    rng = np.random.default_rng([work.seed, 1])
    table, heads = items.astype(np.float64), heads.astype(np.float64)
    clients = range(0, work.num_clients, -(-work.num_clients // SCORED))
    total = 0.0
    for client in clients:
        index, labels = draw(work, client, rng)
        head = heads[client % len(heads)]
        logits = table[index] @ head[:-1] + head[-1]
        total += float(np.mean(np.logaddexp(0, logits) - labels * logits))
    return total / len(clients)


def report(outcome: Outcome, path: Path) -> None:
    """Writes what was trained to ``path`` (.npz) and prints the measurements as one JSON line."""
    np.savez(path, items=outcome.items, heads=outcome.heads)
    line = {
        "round_seconds": [float(seconds) for seconds in outcome.round_seconds],
        "sampling_seconds": [float(seconds) for seconds in outcome.sampling_seconds],
        "peak_rss_bytes": int(outcome.peak_rss_bytes),
    }
    sys.stdout.flush()
    print(f"\n{MARK}{json.dumps(line)}", flush=True)  # on a line of its own, whatever came before


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far (Linux; elsewhere 0: the caller samples too).

    Not getrusage's: that begins with what the parent held when it forked.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else 0
