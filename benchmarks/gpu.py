"""Every GPU figure of the project in one call, under 8 minutes: a table with JSON beside it.

Runs on whatever device JAX finds and says which. Without the real data it takes a synthetic
dataset of the same shape and says so; `--toy` runs in seconds on a CPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Options, Table, dataset, main, median, round_seconds

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError

__all__ = ["GpuOptions", "run"]

DIM = 32


@dataclass(frozen=True)
class GpuOptions(Options):
    """Options of the GPU figures.

    Attributes:
      rounds: of CGFedRec, each with k-means on the host and an evaluation.
      pfedrec_rounds: of PFedRec.
    """

    rounds: int = 100
    pfedrec_rounds: int = 20


def run(options: GpuOptions) -> Table:
    """Runs CGFedRec and PFedRec and the transfers; one row a figure."""
    device = jax.devices()[0]
    title = f"One round after compilation, ML-100K's size, on {device.device_kind}"
    table = Table("gpu", title, options)
    if device.platform == "cpu":
        table.note("This is a CPU: these are NOT GPU figures.")
    data = _data(options, table)
    rounds = 4 if options.toy else options.rounds
    clusters = 12 if options.toy else 60

    down, up = transfer_seconds(data.num_items, DIM)
    method = fedjax_rec.methods.cgfedrec(
        clusters=clusters, optimizer="sgd", local_epochs=2, dim=DIM
    )
    figures, whole = _figures(method, data, rounds, skip=2, options=options)
    table.add(
        **{"figure": "CGFedRec round, 2 local epochs"},
        **figures,
        **{"transfer s": down + up, "target s": 0.25, "verdict": _verdict(figures["s"], 0.25)},
    )
    table.add(
        **{
            "figure": f"CGFedRec, {rounds} rounds, k-means, evaluation",
            "s": whole,
            "target s": 60.0,
            "verdict": _verdict(whole, 60.0),
        }
    )
    method = fedjax_rec.methods.pfedrec(optimizer="sgd", local_epochs=1, dim=DIM)
    pfedrec_rounds = 4 if options.toy else options.pfedrec_rounds
    figures, _ = _figures(method, data, pfedrec_rounds, skip=1, options=options)
    table.add(**{"figure": "PFedRec round, 1 local epoch"}, **figures)
    table.note(
        "Medians over rounds, compilation apart. 'transfer s': mean items to the host plus labels "
        "to the device, measured by itself; it is part of 'host s' and not on top of it."
    )
    return table


def transfer_seconds(num_items: int, dim: int, *, repeats: int = 20) -> tuple[float, float]:
    """Median seconds of what crosses between host and device in a CGFedRec round.

    Args:
      num_items: m.
      dim: d.
      repeats: how often each is timed.

    Returns:
      Device to host for the [m, d] float32 mean; host to device for the [m] int32 labels.
    """
    down, up = [], []
    labels = np.zeros(num_items, np.int32)
    for repeat in range(repeats + 1):
        # A fresh array each time: one that was fetched before keeps its host copy.
        mean = jax.block_until_ready(jnp.full((num_items, dim), float(repeat), jnp.float32))
        start = time.perf_counter()
        np.asarray(mean)
        fetched = time.perf_counter()
        jax.block_until_ready(jax.device_put(labels))
        down.append(fetched - start)
        up.append(time.perf_counter() - fetched)
    return median(down[1:]), median(up[1:])


def _figures(
    method: Any, data: Dataset, rounds: int, *, skip: int, options: GpuOptions
) -> tuple[dict[str, float], float]:
    """Median seconds of a round by part, and the whole run's seconds without compilation."""
    result = fedjax_rec.simulate(
        method,
        data,
        rounds=rounds,
        seed=options.seed,
        eval_every=1,
        devices=options.devices,
        progress=False,
    )
    timings = result.timings
    steady = timings.iloc[skip:]
    figures = {
        "s": median(round_seconds(timings, skip=skip)),
        "device s": median(steady["device_seconds"]),
        "host s": median(steady["host_seconds"]),
        "evaluation s": median(steady["eval_seconds"]),
        "compile s, all": float(timings["compile_seconds"].sum()),
    }
    return figures, float((timings["seconds"] - timings["compile_seconds"]).sum())


def _data(options: GpuOptions, table: Table) -> Dataset:
    try:
        return dataset("ml-100k", options)
    except InputError as error:
        table.note(f"Synthetic data of ML-100K's shape, since the real one is missing: {error}")
    return fedjax_rec.load_dataset(
        "synthetic", users=943, items=1682, interactions_per_user=106, seed=options.seed
    )


def _verdict(seconds: float, target: float) -> str:
    if jax.default_backend() == "cpu":
        return "not a GPU"
    return "ok" if seconds <= target else "too slow"


if __name__ == "__main__":
    main(GpuOptions, run, __doc__ or "")
