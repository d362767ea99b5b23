"""pfl-research's simulation, PyTorch on the CPU, in one process or, under torchrun, in several.

python pfl_worker.py WORK.npz TRAINED.npz
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import work as shared
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch_rows import step

__all__ = ["main"]


class Items(torch.nn.Module):
    """What is federated: the item table. Heads stay with ``PrivateHeads``."""

    def __init__(self, items: np.ndarray) -> None:
        super().__init__()
        self.items = torch.nn.Parameter(torch.from_numpy(items.copy()))

    def loss(self, index: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("local training takes its own steps")

    def metrics(self, index: torch.Tensor, labels: torch.Tensor) -> dict:
        # pfl evaluates in its first iteration whatever it is told: a warm-up, here.
        return {"samples": Weighted.from_unweighted(len(labels))}


class PrivateHeads(FederatedAveraging):
    """Federated averaging whose users each train a head of their own beside the common table."""

    def __init__(self, work: shared.Work, heads: torch.Tensor) -> None:
        super().__init__()
        self._work = work
        self._heads = heads

    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        head = self._heads[int(user_dataset.user_id)]

        def train_step(module, optimizer, batch, train_kwargs, train_step_args):
            step(module.items.detach(), head, *batch, self._work.lr, self._work.item_lr)

        model.do_multiple_epochs_of(user_dataset, central_context.model_train_params, train_step)
        return model.get_model_difference(initial_model_state), Metrics()


class Clock(TrainingProcessCallback):
    """Notes when training began and when each round ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *, model):
        self.times.append(time.perf_counter())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.times.append(time.perf_counter())
        return False, Metrics()


def main(source: Path, target: Path) -> None:
    """Trains and reports."""
    work = shared.load(source)
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", 0))
    np.random.seed(work.seed)  # noqa: NPY002, pfl samples users by the global generator
    rng = np.random.default_rng([work.seed, rank])
    # A file that all processes map: a user may be trained by another process in the next round.
    heads = torch.from_file(
        str(target.with_suffix(".heads")),
        shared=True,
        size=work.num_clients * len(work.head),
        dtype=torch.float32,
    ).view(work.num_clients, -1)
    heads[rank :: int(os.environ.get("WORLD_SIZE", 1))] = torch.from_numpy(work.head)

    def dataset(user: str) -> Dataset:
        items, labels = shared.draw(work, int(user), rng)
        return Dataset([torch.from_numpy(items), torch.from_numpy(labels)], user_id=user)

    model = PyTorchModel(
        module := Items(work.items),
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    users = [str(client) for client in range(work.num_clients)]
    training = FederatedDataset(dataset, get_user_sampler("minimize_reuse", users))
    clock = Clock()
    PrivateHeads(work, heads).run(
        NNAlgorithmParams(
            central_num_iterations=work.warmup + work.rounds,
            evaluation_frequency=work.warmup + work.rounds,
            train_cohort_size=work.num_clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=training, val_data=training),
        model,
        NNTrainHyperParams(
            local_num_epochs=work.local_epochs,
            local_learning_rate=work.lr,
            local_batch_size=work.batch_size,
        ),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    if rank:
        return
    shared.report(
        shared.Outcome(
            round_seconds=np.diff(clock.times)[work.warmup :].tolist(),
            sampling_seconds=[],
            peak_rss_bytes=shared.peak_rss_bytes(),
            items=module.items.detach().numpy(),
            heads=heads.numpy(),
        ),
        target,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
