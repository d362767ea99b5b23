"""FedCIA's alignment of all clients against the per-client PyTorch form, on one machine.

The reference is the formula as it stands: E Eᵀ made in every step, ‖E Eᵀ − G‖_F by autograd, a
step of SGD. Ours is the engine's own way of running clients: one after another on each device, in
the eigenbasis of G. The eigenproblem, which the host solves once a round, is inside our time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import torch
from harness import Options, Table, main, median
from jax.sharding import NamedSharding, PartitionSpec

from fedjax_rec.errors import InputError
from fedjax_rec.methods.gram_alignment import Eigenbasis, align
from fedjax_rec.server import eigenbasis
from fedjax_rec.simulation.clients import AXIS
from fedjax_rec.simulation.devices import client_mesh

__all__ = ["AlignmentOptions", "run"]


@dataclass(frozen=True)
class AlignmentOptions(Options):
    """Options of the alignment benchmark.

    Attributes:
      clients: K.
      items: m.
      dim: d.
      steps: SGD steps of every client.
      ours_clients: run ours on this many clients and extrapolate; by default all.
      reference_clients: run the reference on this many, one by one, and extrapolate.
      turns: how often each side is timed, in turns.
      torch_threads: of the reference; by default PyTorch's own choice, one a core.
    """

    clients: int = 100
    items: int = 1682
    dim: int = 512
    steps: int = 100
    ours_clients: int | None = None
    reference_clients: int = 2
    turns: int = 3
    torch_threads: int | None = None


TARGET = 3.5
LR = 0.1
_COUNTS = (
    "clients",
    "items",
    "dim",
    "steps",
    "turns",
    "ours_clients",
    "reference_clients",
    "torch_threads",
)


def run(options: AlignmentOptions) -> Table:
    """Times both sides; one row."""
    for name in _COUNTS:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if options.toy:
        clients, items, dim, steps = 4, 60, 8, 5
    else:
        clients, items, dim, steps = options.clients, options.items, options.dim, options.steps
    ours_clients = min(options.ours_clients or clients, clients)
    reference_clients = min(options.reference_clients, clients)
    if options.torch_threads is not None:
        torch.set_num_threads(options.torch_threads)

    table = Table("alignment", f"{steps} alignment steps of {clients} clients", options)
    tables, gram = _problem(options.seed, ours_clients, items, dim)
    align_all = _ours(tables, steps, options.devices)
    ours: list[float] = []
    solving: list[float] = []
    reference: list[float] = []
    difference = 0.0
    for _ in range(options.turns):
        start = time.perf_counter()
        values, vectors = eigenbasis(gram)
        target = Eigenbasis(vectors, values)
        solved = time.perf_counter()
        aligned = jax.block_until_ready(align_all(target))
        solving.append(solved - start)
        ours.append((time.perf_counter() - solved) * clients / ours_clients)

        start = time.perf_counter()
        theirs = [_reference(e, gram, steps) for e in tables[:reference_clients]]
        reference.append((time.perf_counter() - start) * clients / len(theirs))
        for client, other in enumerate(theirs):
            off = np.linalg.norm(np.asarray(aligned[client]) - other) / np.linalg.norm(other)
            difference = max(difference, float(off))

    total = median(ours) + median(solving)
    ratio = median(reference) / total
    table.add(
        **{
            "clients": clients,
            "items": items,
            "dim": dim,
            "steps": steps,
            "reference s": median(reference),
            "reference ms/step": 1e3 * median(reference) / clients / steps,
            "ours s": total,
            "ours ms/step": 1e3 * median(ours) / clients / steps,
            "eigenproblem s": median(solving),
            "ratio": ratio,
            "target ratio": TARGET,
            "relative difference": difference,
            "verdict": "toy" if options.toy else "ok" if ratio >= TARGET else "misses",
        }
    )
    table.note(
        f"Reference: measured on {reference_clients} of {clients} clients, one by one, and "
        f"extrapolated in proportion; {torch.get_num_threads()} torch threads."
    )
    measured = "all clients" if ours_clients == clients else f"{ours_clients} of {clients} clients"
    table.note(
        f"Ours: measured on {measured}"
        + ("" if ours_clients == clients else ", and extrapolated in proportion")
        + "; 'ours s' includes the eigenproblem, 'ms/step' is per client on the whole machine."
    )
    table.note("'relative difference': of the aligned embeddings of both sides, the largest.")
    return table


def _problem(seed, clients, items, dim):
    """Clients' tables around a common one, and their mean Gram matrix with some noise."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(items, dim))
    own = rng.normal(size=(clients, items, dim))
    tables = (0.1 * (common + own)).astype(np.float32)
    gram = sum(e @ e.T for e in tables) / clients
    noise = 1e-3 * rng.normal(size=gram.shape)
    return tables, (gram + noise + noise.T).astype(np.float32)


def _ours(tables, steps, devices):
    """Compiles the alignment of all clients: Eigenbasis -> [K, m, d]."""
    mesh = client_mesh(devices)
    if len(tables) % mesh.size:
        raise InputError(f"{len(tables)} clients do not spread over {mesh.size} devices evenly")
    batched, shared = PartitionSpec(AXIS), PartitionSpec()

    def on_device(clients, target):
        return jax.lax.map(partial(align, target=target, steps=steps, lr=LR), clients)

    shards = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(batched, shared),
        out_specs=batched,
        check_vma=False,
    )
    placed = jax.device_put(tables, NamedSharding(mesh, batched))
    items = tables.shape[1]
    everywhere = NamedSharding(mesh, shared)
    blank = Eigenbasis(np.zeros((items, items), np.float32), np.zeros(items, np.float32))
    program = jax.jit(shards).lower(placed, jax.device_put(blank, everywhere)).compile()
    return lambda target: program(placed, jax.device_put(target, everywhere))


def _reference(start: np.ndarray, gram: np.ndarray, steps: int) -> np.ndarray:
    """One client in PyTorch: E Eᵀ in every step, the norm by autograd, plain SGD."""
    embeddings = torch.tensor(start, requires_grad=True)
    target = torch.tensor(gram)
    optimizer = torch.optim.SGD([embeddings], lr=LR)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.linalg.norm(embeddings @ embeddings.T - target).backward()
        optimizer.step()
    return embeddings.detach().numpy()


if __name__ == "__main__":
    main(AlignmentOptions, run, __doc__ or "")
