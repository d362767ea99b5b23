"""FedCIA on ML-100K's ratio split, beside FedMF and local MF with the same backbone.

100 silos of several users each, and 943 clients of one user; full ranking; standard metrics, and
those that FedCIA's release computes. Every method stops once its validation recall has not risen
for a while, and is quoted at its best validation round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import staged
from harness import Options, Table, dataset, main

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.errors import InputError

__all__ = ["FedCIAOptions", "run"]

METHODS = ("fedcia", "fedmf", "local-mf", "fedcia-gf")
DATASETS = {100: "ml-100k-ratio", 943: "ml-100k-ratio-943"}
# The papers' tables, for 100 silos: MRR and NDCG by the release's definitions.
PUBLISHED = {
    "fedcia": {"Recall@10": 17.49, "MRR*@10": 56.61, "NDCG*@10": 62.28},
    "fedmf": {"Recall@10": 16.39, "MRR*@10": 55.27, "NDCG*@10": 60.79},
    "local-mf": {"Recall@10": 5.19, "MRR*@10": 25.51, "NDCG*@10": 31.57},
}


@dataclass(frozen=True)
class FedCIAOptions(Options):
    """Options of the FedCIA benchmark.

    Attributes:
      methods: which to run: fedcia, fedmf, local-mf, fedcia-gf.
      clients: which federations: 100, 943.
      dim: d of the embeddings of 100 silos. The papers' 512 takes 140 s of alignment a round on 2
        cores.
      single_dim: likewise of 943 clients of one user, where the papers' 256 takes 230 s.
      align_steps: of FedCIA; the papers' 100.
      lr: learning rate of FedCIA and of local MF (Adam), users and items alike.
      fedmf_lr: of FedMF.
      weight_decay: of all.
      loss: "bce" or "mse" (the release's).
      rounds: at most, of FedMF and local MF.
      fedcia_rounds: at most, of FedCIA with 100 silos: a round costs twenty of the others'.
      fedcia_single_rounds: likewise with 943 clients.
      stage: rounds between looks at the validation recall; evaluated in between too.
      patience: stop when the best round is so many rounds ago.
      eval_every: evaluate every so many rounds: FedCIA aligns once more for it.
      evaluate_at: "download" or "trained", of the embedding methods.
      runs: folder of the runs' own artifacts: a benchmark that was stopped goes on from there.
        With --toy, none.
    """

    methods: tuple[str, ...] = METHODS
    clients: tuple[int, ...] = (100, 943)
    dim: int = 64
    single_dim: int = 32
    align_steps: int = 100
    lr: float = 0.1
    fedmf_lr: float = 0.1
    weight_decay: float = 1e-6
    loss: str = "bce"
    rounds: int = 40
    fedcia_rounds: int = 20
    fedcia_single_rounds: int = 8
    stage: int = 10
    patience: int = 10
    eval_every: int = 2
    evaluate_at: str = "download"
    runs: Path = Path("runs/fedcia_ml100k")


def run(options: FedCIAOptions) -> Table:
    """Runs every method on every federation; one row each."""
    if unknown := set(options.methods) - set(METHODS):
        raise InputError(f"--methods {' '.join(sorted(unknown))}: choose from {', '.join(METHODS)}")
    if unknown_sizes := set(options.clients) - set(DATASETS):
        raise InputError(f"--clients {' '.join(map(str, unknown_sizes))}: choose from 100, 943")
    _stages(options.rounds, options)  # what is wrong with them is said before anything runs
    table = Table("fedcia_ml100k", "ML-100K, 72/8/20, full ranking, test (percent)", options)
    for clients in options.clients:
        data = dataset(DATASETS[clients], options)
        for name in options.methods:
            table.add(**_row(name, clients, data, options))
            if clients == 100 and name in PUBLISHED:
                table.add(clients=clients, method=f"{name} (published)", **PUBLISHED[name])
    table.note(
        f"d = {options.dim} (943 clients: {options.single_dim}), {options.align_steps} alignment "
        "steps, Adam, one fixed negative a positive, batches of 4096, loss "
        f"{options.loss}, scored at {options.evaluate_at}; rates {options.lr} (fedcia, local-mf) "
        f"and {options.fedmf_lr} (fedmf). The papers: d = 512."
    )
    table.note("'local-mf' is FedCIA with no alignment steps: the same backbone, nothing shared.")
    table.note("MRR* and NDCG*: by the release's definitions (fedjax_rec/evaluation/published.py).")
    table.note(
        "'MB up', 'MB down': a client's mean a round, of FedCIA a whole Gram matrix (none comes "
        "down in its first round)."
    )
    return table


def _method(name: str, dim: int, options: FedCIAOptions) -> fedjax_rec.methods.Method:
    if name == "fedcia-gf":
        return fedjax_rec.methods.fedcia_gf(low_pass_rank=8 if options.toy else 32)
    rate = options.fedmf_lr if name == "fedmf" else options.lr
    backbone: dict[str, Any] = {
        "dim": 8 if options.toy else dim,
        "optimizer": "adam",
        "lr": rate,
        "item_lr": rate,
        "weight_decay": options.weight_decay,
        "batch_size": 4096,
        "negatives": 1,
        "keep_optimizer": True,
        "resample_negatives": False,
        "loss": options.loss,
    }
    if name == "fedmf":
        return fedjax_rec.methods.fedmf(**backbone)
    steps = 0 if name == "local-mf" else options.align_steps
    return fedjax_rec.methods.fedcia(align_steps=steps, **backbone)


def _row(name: str, clients: int, data: Dataset, options: FedCIAOptions) -> dict[str, Any]:
    silos = clients == 100
    dim = options.dim if silos else options.single_dim
    most = options.rounds
    if name == "fedcia":
        most = options.fedcia_rounds if silos else options.fedcia_single_rounds
    method = _method(name, dim, options)
    once = name == "fedcia-gf"
    parts = [name, f"{clients}clients", f"seed{options.seed}"]
    if not once:
        rate = options.fedmf_lr if name == "fedmf" else options.lr
        parts += [f"d{dim}", f"lr{rate:g}", f"wd{options.weight_decay:g}", options.loss]
        parts += [f"every{options.eval_every}", options.evaluate_at]
    if name == "fedcia":
        parts.append(f"steps{options.align_steps}")
    label = "-".join(parts)
    result = staged.train(
        method,
        data,
        staged.Stages(1) if once else _stages(most, options),
        seed=options.seed,
        label=label,
        out=None if options.toy else options.runs / label,
        clients=5 if options.toy and silos else None,
        evaluate_at="download" if once else options.evaluate_at,  # type: ignore[arg-type]
        devices=options.devices,
    )
    return {
        "clients": clients,
        "method": name,
        "d": None if once else dim,
        **staged.figures(result),
    }


def _stages(rounds: int, options: FedCIAOptions) -> staged.Stages:
    return staged.Stages(
        rounds, stage=options.stage, patience=options.patience, eval_every=options.eval_every
    )


if __name__ == "__main__":
    main(FedCIAOptions, run, __doc__ or "")
