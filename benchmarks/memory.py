"""Memory: one contrastive loss + gradient, and a whole CGFedRec run on ML-100K.

The first figure is the compiler's own account of temporary memory (inputs and outputs apart), so
it is exact and shows that no m × m array exists at m = 12,454 (620 MB in float32). The second is
the peak resident set of the installed command in a process of its own.
"""

from __future__ import annotations

import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import peak_rss
from harness import Options, Table, main

from fedjax_rec.errors import InputError
from fedjax_rec.losses import supervised_contrastive

__all__ = ["MemoryOptions", "contrastive_temporaries", "run"]

MB = 1e6


@dataclass(frozen=True)
class MemoryOptions(Options):
    """Options of the memory benchmark.

    Attributes:
      rounds: of the whole run; its peak is reached within the first few.
    """

    rounds: int = 3


def run(options: MemoryOptions) -> Table:
    """Measures both; one row each."""
    table = Table("memory", "Memory of CGFedRec (megabytes, 10^6 bytes)", options)
    for num_items, dim, limit in ((12_454, 64, 128.0), (1_682, 32, None)):
        measured = contrastive_temporaries(num_items, dim) / MB
        _add(
            table,
            f"temporaries of one contrastive gradient, m={num_items:,} d={dim}",
            measured,
            limit,
        )
    command = [_installed_command(), "run", "cgfedrec", "--seed", str(options.seed)]
    if options.toy:
        command += ["--data", "synthetic", "--rounds", "1"]
        what = "synthetic data"
    else:
        command += ["--data", "ml-100k", "--rounds", str(options.rounds)]
        what = "ML-100K"
    with tempfile.TemporaryDirectory() as folder:
        measured = peak_rss.measure([*command, "--out", str(Path(folder) / "run")]).peak_rss_bytes
    _add(table, f"peak resident set of `fedjax-rec run cgfedrec`, {what}", measured / MB, 1500.0)
    return table


def contrastive_temporaries(num_items: int, dim: int) -> int:
    """Bytes of temporary memory of one compiled contrastive loss + gradient.

    Args:
      num_items: m.
      dim: d.

    Raises:
      RuntimeError: if this backend keeps no account of its memory.
    """

    def loss(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        return supervised_contrastive(embeddings, labels, temperature=0.1, base_temperature=0.5)

    embeddings = jax.ShapeDtypeStruct((num_items, dim), jnp.float32)
    labels = jax.ShapeDtypeStruct((num_items,), jnp.int32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(embeddings, labels).compile()
    account = compiled.memory_analysis()
    if account is None:
        raise RuntimeError(f"no memory analysis on {jax.default_backend()}: run this on CPU")
    return int(account.temp_size_in_bytes)


def _add(table: Table, what: str, measured: float, limit: float | None) -> None:
    verdict = None if limit is None else ("ok" if measured < limit else "too much")
    table.add(**{"what": what, "MB": measured, "limit MB": limit, "verdict": verdict})


def _installed_command() -> str:
    command = Path(sysconfig.get_path("scripts")) / "fedjax-rec"
    if not command.exists():
        raise InputError("fedjax-rec is not installed beside this Python: run pip install -e .")
    return str(command)


if __name__ == "__main__":
    main(MemoryOptions, run, __doc__ or "")
