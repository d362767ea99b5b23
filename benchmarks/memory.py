"""Memory: pairwise losses and their gradients, and whole runs of CGFedRec and AlignFedRec.

Temporary memory is the compiler's own account (inputs and outputs apart, so beyond M_g), exact: it
shows that no m × m array exists at m = 12,454 (620 MB in float32). A run's figure is the peak
resident set of the installed command in a process of its own.
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
from fedjax_rec.losses import AlignmentTerm, ContrastTerm, structural_loss
from fedjax_rec.tiles import grid

__all__ = ["MemoryOptions", "gradient_temporaries", "run"]

MB = 1e6


@dataclass(frozen=True)
class MemoryOptions(Options):
    """Options of the memory benchmark.

    Attributes:
      rounds: of the ML-100K run; its peak is reached within the first few.
      runs: whose whole runs to measure.
    """

    rounds: int = 3
    runs: tuple[str, ...] = ("cgfedrec", "alignfedrec")


def run(options: MemoryOptions) -> Table:
    """Measures all of it; one row each."""
    table = Table("memory", "Memory (megabytes, 10^6 bytes)", options)
    gradients = (
        ("one contrastive gradient", 12_454, 64, False, 128.0),
        ("one contrastive gradient", 1_682, 32, False, None),
        ("one contrastive and alignment gradient, beyond M_g", 12_454, 64, True, 256.0),
        ("one contrastive and alignment gradient, beyond M_g", 1_682, 64, True, None),
    )
    for what, items, dim, align, limit in gradients:
        measured = gradient_temporaries(items, dim, align=align) / MB
        _add(table, f"temporaries of {what}, m={items:,} d={dim}", measured, limit)

    few = ["--data-options", "users=30", "items=60"]
    toy = ["--data", "synthetic", *few, "--rounds", "1", "--no-report"]
    ml_100k = ["--data", "ml-100k", "--rounds", str(options.rounds)]
    lastfm = ["--data", "lastfm-2k", "--split", "ratio", "--client-limit", "100", "--rounds", "2"]
    runs = (("cgfedrec", ml_100k, 1500.0), ("alignfedrec", lastfm, 24_000.0))
    for name, arguments, limit in runs:
        if name not in options.runs:
            continue
        arguments = [name, *(toy if options.toy else arguments)]
        command = [_installed_command(), "run", *arguments, "--seed", str(options.seed)]
        with tempfile.TemporaryDirectory() as folder:
            measured = peak_rss.measure([*command, "--out", str(Path(folder) / "run")])
        what = f"peak resident set of `fedjax-rec run {' '.join(arguments)}`"
        _add(table, what, measured.peak_rss_bytes / MB, limit)
    return table


def gradient_temporaries(num_items: int, dim: int, *, align: bool) -> int:
    """Bytes of temporary memory of one compiled pairwise loss + gradient.

    Args:
      num_items: m.
      dim: d.
      align: whether the alignment to M_g is part of the loss beside the contrastive term.

    Raises:
      RuntimeError: if this backend keeps no account of its memory.
    """

    def loss(embeddings: jax.Array, labels: jax.Array, similarity: jax.Array) -> jax.Array:
        return structural_loss(
            embeddings,
            labels=labels,
            contrast=ContrastTerm(),
            global_similarity=similarity if align else None,
            alignment=AlignmentTerm(threshold=0.5) if align else None,
        )

    arguments = (
        jax.ShapeDtypeStruct((num_items, dim), jnp.float32),
        jax.ShapeDtypeStruct((num_items,), jnp.int32),
        jax.ShapeDtypeStruct(grid(num_items).shape, jnp.float32),
    )
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
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
