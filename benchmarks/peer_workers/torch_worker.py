"""The per-client PyTorch loop, lean: no modules, no data loader; clients one after another.

python torch_worker.py WORK.npz TRAINED.npz
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
import work as shared
from torch_rows import step

__all__ = ["main"]


def main(source: Path, target: Path) -> None:
    """Trains and reports."""
    work = shared.load(source)
    torch.set_num_threads(1)  # a client's batch is too small to share: two threads are slower
    rng = np.random.default_rng(work.seed)
    server = torch.from_numpy(work.items)
    heads = torch.from_numpy(np.tile(work.head, (work.num_clients, 1)))
    table, total = torch.empty_like(server), torch.empty_like(server)
    seconds, sampling = [], []
    for _ in range(work.warmup + work.rounds):
        start, drawing = time.perf_counter(), 0.0
        total.zero_()
        for client in range(work.num_clients):
            before = time.perf_counter()
            batches = shared.batches(work, client, rng)
            drawing += time.perf_counter() - before
            table.copy_(server)
            for index, labels in batches:
                parts = torch.from_numpy(index), torch.from_numpy(labels)
                step(table, heads[client], *parts, work.lr, work.item_lr)
            total += table
        server = total / work.num_clients
        seconds.append(time.perf_counter() - start)
        sampling.append(drawing)
    shared.report(
        shared.Outcome(
            round_seconds=seconds[work.warmup :],
            sampling_seconds=sampling[work.warmup :],
            peak_rss_bytes=shared.peak_rss_bytes(),
            items=server.numpy(),
            heads=heads.numpy(),
        ),
        target,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
