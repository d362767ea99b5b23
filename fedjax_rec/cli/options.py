"""The options of all commands, as frozen dataclasses: what ``--help`` says is written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

__all__ = [
    "CompareOptions",
    "DataGet",
    "DataInfo",
    "DataList",
    "DataOptions",
    "DataSynth",
    "DatasetOptions",
    "Report",
    "RunOptions",
    "SweepOptions",
    "TrainingOptions",
    "TrialOptions",
]


@dataclass(frozen=True)
class DatasetOptions:
    """What to train on.

    Attributes:
      data: synthetic, a known dataset (see fedjax-rec data list), or the path of a file.
      data_options: options of the synthetic generator or of the reader, as NAME=VALUE, such as
        users=1000 items=500, or timestamp=3.
      split: loo: leave one out by time, ranked among 99 sampled items and among all. ratio: 72 %
        training, 8 % validation, 20 % test, ranked among all.
      clients: number of clients that the users are grouped into; unset: one user each, or the
        dataset's own grouping.
      client_limit: use the first N clients only; all items stay.
      click_noise: random items to add to what every user trains on, as a share of it: 0.1 is 10 %.
    """

    data: str = "synthetic"
    data_options: tuple[str, ...] = ()
    split: Literal["loo", "ratio"] = "loo"
    clients: int | None = None
    client_limit: int | None = None
    click_noise: float = 0.0


@dataclass(frozen=True)
class DataOptions(DatasetOptions):
    """What to train on, and which negatives.

    Attributes:
      protocol: leak-free: training negatives come from all items that the user does not train on.
        published: from outside the user's whole history, as in the papers' releases, for
        comparing with their tables; figures are inflated.
    """

    protocol: Literal["leak-free", "published"] = "leak-free"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
      rounds: communication rounds; unset: the method's own number.
      cohort: clients taking part in a round: a fraction with a decimal point (0.1), or a number.
      eval_every: evaluate every N rounds, and after the last.
      evaluate_at: download: what a user would be served at the start of the next round. trained:
        right after local training. Unset: download; under published, as the method's release.
      chunk: clients trained side by side on a device, or auto. Bounds memory.
      devices: devices to use, of each process; unset: all (on a CPU, one a core).
      state: where clients' states are between rounds: device, host (memory), disk (files in --out),
        or auto, the nearest of them with room.
      state_dtype: what they are kept in: bfloat16 takes half of float32's memory, int8 a quarter.
      precision: of matrix products on an accelerator: default is its fast form (TF32, bfloat16),
        high is float32 throughout.
      kernel: xla: in float32, on any device. pallas: CGFedRec's and AlignFedRec's losses over all
        pairs of items by a fused GPU kernel, whose products are TF32 unless --precision is high.
        native: local training of matrix factorization by Adam (RQFedRec, FedMF, FedCIA) in C++ on
        a CPU; needs a compiler, pays for wide embeddings. auto: xla.
      checkpoint_every: rounds between checkpoints.
    """

    rounds: int | None = None
    cohort: str = "1.0"
    eval_every: int = 1
    evaluate_at: Literal["download", "trained"] | None = None
    chunk: int | Literal["auto"] = "auto"
    devices: int | None = None
    state: Literal["auto", "device", "host", "disk"] = "auto"
    state_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    precision: Literal["default", "high"] = "default"
    kernel: Literal["auto", "xla", "pallas", "native"] = "auto"
    checkpoint_every: int = 10


@dataclass(frozen=True)
class RunOptions(TrainingOptions):
    """How to run it.

    Attributes:
      seed: seed of everything random.
      out: folder of the run; unset: runs/METHOD-DATA-PROTOCOL-seedS, numbered where it is taken.
      resume: go on with the run in --out; without --out, with the latest one of that name.
      label: the run's name in reports; unset: the method's.
      no_report: write no report.html at the end.
      debug: client by client, without jit: slow, but errors name their place.
      quiet: no line a round.
      compile_cache: folder of compiled programs, or off. Unset: as JAX_COMPILATION_CACHE_DIR says,
        else in the user's cache folder, at most 2 GB.
      coordinator: HOST:PORT of process 0, for a run of several processes, on one host or many. All
        get the same options but --process, and an --out that all can read; process 0 writes. Unset:
        as Slurm, Open MPI or a TPU pod says.
      process: which of the processes this is, from 0.
      processes: how many there are. A resumed run may have another number.
      join_seconds: how long to wait until all processes have come.
    """

    seed: int = 0
    out: Path | None = None
    resume: bool = False
    label: str | None = None
    no_report: bool = False
    debug: bool = False
    quiet: bool = False
    compile_cache: str | None = None
    coordinator: str | None = None
    process: int | None = None
    processes: int | None = None
    join_seconds: int = 120


@dataclass(frozen=True)
class DataList:
    """List the datasets that have a name."""


@dataclass(frozen=True)
class DataInfo:
    """Show what a dataset is, its statistics and what its reader noticed.

    Attributes:
      name: a known dataset, synthetic, or a path.
      data_options: as of run --data-options.
    """

    name: tyro.conf.Positional[str]
    data_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataGet:
    """Download a known dataset into the cache, checked, with its licence shown.

    Attributes:
      name: see fedjax-rec data list.
    """

    name: tyro.conf.Positional[str]


@dataclass(frozen=True)
class DataSynth:
    """Write a synthetic dataset with planted clusters as RecBole atomic files.

    Attributes:
      out: the .inter file to write; the .item file goes beside it.
      users: number of users.
      items: number of items.
      clusters: planted item clusters.
      interactions_per_user: mean number of interactions.
      seed: of the generator.
    """

    out: tyro.conf.Positional[Path]
    users: int = 400
    items: int = 300
    clusters: int = 12
    interactions_per_user: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """Report on one run, or compare several: a table here, and an HTML page.

    Attributes:
      runs: folders written by fedjax-rec run.
      out: the page; unset: report.html in the only run's folder, or compare.html here.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None


@dataclass(frozen=True)
class TrialOptions:
    """Where trials run.

    Attributes:
      executor: local: processes of this machine. ray: tasks on a Ray cluster (RAY_ADDRESS), or on
        one of this machine's own.
      jobs: trials at a time; unset: one on this machine, as many as a Ray cluster has room for.
      cpus_per_trial: what Ray reserves for a trial.
      gpus_per_trial: what Ray reserves for a trial.
      retry_failed: run those again that failed before.
    """

    executor: Literal["local", "ray"] = "local"
    jobs: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    retry_failed: bool = False


@dataclass(frozen=True)
class SweepOptions:
    """What to sweep.

    Attributes:
      spec: TOML file: options of run by their names, [grid] lists, [random] distributions.
      out: folder of the sweep; unset: runs/sweep-SPEC. The same command goes on with it.
    """

    spec: tyro.conf.Positional[Path]
    out: Path | None = None


@dataclass(frozen=True)
class CompareOptions:
    """What to compare.

    Attributes:
      methods: names between commas, each with a preset and options of its own if wanted:
        NAME[@PRESET][:OPTION=VALUE]..., such as pfedrec,alignfedrec@leak-free,fedmf:dim=64:lr=0.1.
        Of one method, entries are told apart by these, or by label=NAME; seeds=N: with the first N
        seeds only. Or a TOML file with a table for each entry, [LABEL], of method, preset, seeds
        and options.
      seeds: each method runs with seeds 0, 1, ..., N-1; a list such as 0,3,7 names them.
      protocol: as of run; both: under each of the two, and what the leak does to the ranking.
      out: folder of the comparison; unset: runs/compare-DATA-SPLIT. The same command goes on with
        it, and so does one with more methods, seeds or rounds.
    """

    methods: str
    seeds: str = "3"
    protocol: Literal["leak-free", "published", "both"] = "leak-free"
    out: Path | None = None
