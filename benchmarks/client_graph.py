"""What comparing every client with every other costs a server: seconds and memory.

The server step of GPFedRec (similarities of all pairs, neighbours, message passing), FedCA (angles,
first components, projections, mixes) and CoFedRec (one client against all, the elbow, the group's
mean) on uploads of random numbers, at the size of ML-1M: 6,040 tables of 3,706 × 32, 2.87 GB a
copy. No client trains.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Options, Table, main, median
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods import ByClient, Uploads
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.methods.cgfedrec import Server as Clusters
from fedjax_rec.methods.cofedrec import Server as CoFedRecServer
from fedjax_rec.methods.cofedrec import Upload as CoFedRecUpload
from fedjax_rec.methods.fedca import Server as FedCAServer
from fedjax_rec.methods.fedca import Upload as FedCAUpload
from fedjax_rec.methods.gpfedrec import Server as GPFedRecServer
from fedjax_rec.simulation import clients
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.servers import server_shardings

__all__ = ["ClientGraphOptions", "run"]

METHODS = ("gpfedrec", "fedca", "cofedrec")


@dataclass(frozen=True)
class ClientGraphOptions(Options):
    """Options of this benchmark.

    Attributes:
      methods: gpfedrec, fedca, cofedrec.
      clients: K, a multiple of the number of devices.
      items: m.
      dim: d.
      turns: timed steps, after one that warms up.
    """

    methods: tuple[str, ...] = METHODS
    clients: int = 6040
    items: int = 3706
    dim: int = 32
    turns: int = 3


def run(options: ClientGraphOptions) -> Table:
    """Times every method's step; one row each."""
    if unknown := set(options.methods) - set(METHODS):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(METHODS)}")
    mesh = client_mesh(options.devices)
    count, items, dim = options.clients, options.items, options.dim
    if options.toy:
        count, items, dim = 8 * mesh.size, 50, 8
    if count % mesh.size:
        raise InputError(f"--clients {count} must be a multiple of the {mesh.size} devices")
    copy = 4 * count * items * dim / 1e9
    size = f"{count:,} clients, m = {items:,}, d = {dim}: {copy:.3g} GB a copy of all tables"
    table = Table("client_graph", f"A server step over {size}", options)
    for name in options.methods:
        step, server, uploads = _problem(name, mesh, (count, items, dim), options.seed)
        start = time.perf_counter()
        placed = server_shardings(server, mesh)
        program = jax.jit(step, out_shardings=placed).lower(server, uploads).compile()
        compiled = time.perf_counter() - start
        seconds = []
        for _ in range(1 + options.turns):
            start = time.perf_counter()
            made = jax.block_until_ready(program(server, uploads))
            seconds.append(time.perf_counter() - start)
            del made  # two results at once would be a copy more than a run has
        memory = program.memory_analysis()
        table.add(
            **{
                "method": name,
                "clients": count,
                "s": median(seconds[1:]),
                "compile s": compiled,
                "arguments GB": mesh.size * memory.argument_size_in_bytes / 1e9,
                "result GB": mesh.size * memory.output_size_in_bytes / 1e9,
                "temporaries GB": mesh.size * memory.temp_size_in_bytes / 1e9,
                "copies": (
                    memory.argument_size_in_bytes
                    + memory.output_size_in_bytes
                    + memory.temp_size_in_bytes
                )
                * mesh.size
                / (1e9 * copy),
                "process peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
        )
        del server, uploads, program
    table.note(
        "Arguments: the uploads, and what each client was sent last (CoFedRec has no such). "
        "'copies': arguments, result and temporaries, in copies of all tables. In a run, FedCA's "
        "and CoFedRec's clients hold a table of their own beside, one copy more."
    )
    table.note("'process peak': resident memory of this process so far, the compiler's included.")
    return table


def _problem(name: str, mesh: Mesh, shape: tuple[int, int, int], seed: int) -> tuple[Any, Any, Any]:
    """(step of (server, uploads) -> server, a server's state, a round's uploads)."""
    count, items, dim = shape
    rows = NamedSharding(mesh, PartitionSpec(clients.AXIS))
    key = jax.random.key(seed)

    def tables(number: int) -> jax.Array:
        def draw(key: jax.Array) -> jax.Array:
            common = jax.random.normal(jax.random.fold_in(key, 99), shape[1:])
            return common + jax.random.normal(jax.random.fold_in(key, number), shape)

        return jax.jit(draw, out_shardings=rows)(key)

    def by_row(values: np.ndarray) -> jax.Array:
        return jax.device_put(values, rows)

    client = by_row(np.arange(count, dtype=np.int32))
    mean = jnp.zeros((items, dim))
    if name == "cofedrec":
        method = methods.cofedrec(dim=dim)
        labels = Labels(jnp.arange(items, dtype=jnp.int32) % 30, jnp.bool_(True))
        nobody = ByClient(by_row(np.zeros(count, bool)))
        server: Any = CoFedRecServer(Clusters(mean, labels, (), ()), mean, nobody)
        upload: Any = CoFedRecUpload(tables(0), by_row(np.zeros(count, np.int32)))
        step = method.server_finish
        assert step is not None
        return lambda s, u: step(key, s, u), server, Uploads(upload, client)
    if name == "gpfedrec":
        method = methods.gpfedrec(dim=dim)
        server = GPFedRecServer(mean, ByClient(tables(1)), ())
        upload = tables(0)
    else:
        method = methods.fedca(dim=dim)
        server = FedCAServer(mean, ByClient(tables(1)))
        rng = np.random.default_rng(seed)
        bases = np.linalg.qr(rng.normal(size=(count, dim, 4)))[0].swapaxes(1, 2)
        upload = FedCAUpload(
            tables(0), by_row(bases.astype(np.float32)), by_row(np.full(count, 100, np.int32))
        )
    return lambda s, u: method.server_step(key, s, None, u), server, Uploads(upload, client)


if __name__ == "__main__":
    main(ClientGraphOptions, run, __doc__ or "")
