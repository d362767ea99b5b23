"""The per-client PyTorch loop that the speed benchmark compares with.

Written from the formulas, in the shape that the public releases of PFedRec and its relatives
share: clients are trained one after another; each gets a deep copy of the model, a `DataLoader`
over its own samples and fresh optimizers; a batch steps the head, then, on a fresh forward pass,
the items; a client's upload is a copy of its `state_dict` and the server's mean is a Python loop.
Every positive draws its own distinct negatives in Python, as the releases do; nothing else is done
row by row, and nothing is slowed down on purpose.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fedjax_rec.data.problem import Problem

__all__ = [
    "LinearHead",
    "LoopConfig",
    "LoopState",
    "Samples",
    "cgfedrec_round",
    "contrastive_loss",
    "draw_samples",
    "init",
    "item_labels",
    "pfedrec_round",
    "unseen_items",
]

ITEMS = "items.weight"  # the entry of a state_dict that travels


@dataclass(frozen=True)
class LoopConfig:
    """The releases' reference setting.

    Attributes:
      dim: width d of the item embeddings.
      lr: η, the head's SGD rate; the items' rate is η · m · item_lr_scale.
      item_lr_scale: see lr.
      batch_size: samples a batch.
      negatives: negatives per positive, drawn anew every round.
      local_epochs: passes over a client's samples a round.
      contrast_weight: ρ; 0 leaves the contrastive term out (PFedRec).
      temperature: τ of the contrastive term.
      base_temperature: τ0 of the contrastive term.
      clusters: C, the clusters of the server's k-means.
    """

    dim: int = 32
    lr: float = 0.1
    item_lr_scale: float = 80.0
    batch_size: int = 256
    negatives: int = 4
    local_epochs: int = 1
    contrast_weight: float = 0.0
    temperature: float = 0.1
    base_temperature: float = 0.5
    clusters: int = 60


@dataclass(frozen=True)
class LoopState:
    """What lives on between rounds.

    Attributes:
      model: the template that every client copies.
      clients: each client's own `state_dict`, by client index.
      mean_items: [m, d] float32, the server's mean of the uploaded item embeddings.
      labels: [m] int64 cluster labels, or None before the first clustering.
      unseen: each user's items that may be drawn as negatives, ascending.
      loss: mean training loss of the last round over batches; NaN before the first.
      batches: how many batches the last round trained.
    """

    model: LinearHead
    clients: dict[int, dict[str, Tensor]]
    mean_items: Tensor
    labels: np.ndarray | None
    unseen: dict[int, np.ndarray]
    loss: float = math.nan
    batches: int = 0


class LinearHead(nn.Module):
    """PFedRec's score σ(w·E_i + b): an item embedding table under a linear head."""

    def __init__(self, num_items: int, dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        # Skipping the modules' own initialization keeps torch's global generator untouched.
        self.items = nn.utils.skip_init(nn.Embedding, num_items, dim)
        self.head = nn.utils.skip_init(nn.Linear, dim, 1)
        bound = 1 / math.sqrt(dim)
        with torch.no_grad():
            self.items.weight.normal_(generator=generator)
            self.head.weight.uniform_(-bound, bound, generator=generator)
            self.head.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, item: Tensor) -> Tensor:
        """Probabilities [n] float32 of the items [n] int64."""
        return torch.sigmoid(self.head(self.items(item))).squeeze(-1)


class Samples(Dataset):
    """One client's (item, target) pairs of a round."""

    def __init__(self, item: Tensor, target: Tensor) -> None:
        self.item = item
        self.target = target

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.item[index], self.target[index]


def contrastive_loss(
    embeddings: Tensor, labels: Tensor, *, temperature: float, base_temperature: float
) -> Tensor:
    """CGFedRec's supervised contrastive term over all items, m × m as the releases compute it.

    −(τ/τ0) · mean_a (1/|P(a)|) Σ_{p∈P(a)} [z_a·z_p/τ − log Σ_{k≠a} exp(z_a·z_k/τ)],
    P(a) = the other items of a's cluster; an anchor without any contributes 0.

    Args:
      embeddings: [m, d] float.
      labels: [m] int64.
      temperature: τ.
      base_temperature: τ0.

    Returns:
      A scalar.
    """
    z = nn.functional.normalize(embeddings, dim=1)
    logits = z @ z.T / temperature
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(labels), dtype=logits.dtype)
    positives = (labels[:, None] == labels[None, :]) * others
    log_denominator = torch.log((torch.exp(logits) * others).sum(dim=1, keepdim=True))
    per_anchor = (positives * (logits - log_denominator)).sum(dim=1)
    per_anchor = per_anchor / positives.sum(dim=1).clamp(min=1)
    return -(temperature / base_temperature) * per_anchor.mean()


def init(
    problem: Problem, config: LoopConfig, *, seed: int, clients: Sequence[int] | None = None
) -> LoopState:
    """All clients start from one draw: E ~ N(0, 1), the head uniform in ±1/√d.

    Args:
      problem: who holds what; every client must hold one user.
      config: the setting.
      seed: of the draw.
      clients: the clients to train; None means all.

    Raises:
      ValueError: if a client holds several users, which this score function cannot tell apart.
    """
    if (problem.users_per_client != 1).any():
        raise ValueError("torch_loop trains one user a client: make the problem without clients=")
    chosen = range(problem.num_clients) if clients is None else clients
    model = LinearHead(problem.num_items, config.dim, generator=torch.Generator().manual_seed(seed))
    return LoopState(
        model=model,
        clients={client: copy.deepcopy(model.state_dict()) for client in chosen},
        mean_items=model.items.weight.detach().clone(),
        labels=None,
        unseen={client: unseen_items(problem, client) for client in chosen},
    )


def pfedrec_round(
    problem: Problem, state: LoopState, config: LoopConfig, *, seed: int
) -> LoopState:
    """One round of PFedRec: every client starts from the mean items and its own head.

    Args:
      problem: the one that `state` was made from.
      state: the last round's.
      config: the setting; its contrast_weight is not read.
      seed: of this round's negatives and batch order.
    """
    received = {
        client: {**own, ITEMS: state.mean_items.clone()} for client, own in state.clients.items()
    }
    return _train_all(problem, state, received, config, seed=seed, labels=None)


def cgfedrec_round(
    problem: Problem, state: LoopState, config: LoopConfig, *, seed: int
) -> LoopState:
    """One round of CGFedRec: clients keep their items and receive labels; k-means at the end.

    Without labels (the first round) there is no contrastive term. Arguments as `pfedrec_round`.
    """
    labels = None if state.labels is None else torch.from_numpy(state.labels)
    trained = _train_all(problem, state, state.clients, config, seed=seed, labels=labels)
    return LoopState(
        **{
            **vars(trained),
            "labels": item_labels(trained.mean_items, clusters=config.clusters, seed=seed),
        }
    )


def item_labels(items: Tensor, *, clusters: int, seed: int) -> np.ndarray:
    """k-means labels [m] int64 of the item embeddings [m, d]."""
    fitted = KMeans(n_clusters=clusters, n_init=1, random_state=seed).fit(items.numpy())
    return fitted.labels_.astype(np.int64)


def draw_samples(
    positives: np.ndarray, unseen: np.ndarray, negatives: int, rng: np.random.Generator
) -> Samples:
    """A round's samples of one client: the positives, and distinct negatives for each of them.

    Args:
      positives: [P] items.
      unseen: [n] items that may be drawn.
      negatives: how many a positive.
      rng: the draws'.
    """
    drawn = [rng.choice(unseen, size=negatives, replace=False, shuffle=False) for _ in positives]
    item = np.concatenate([positives, *drawn]).astype(np.int64)
    target = np.zeros(len(item), np.float32)
    target[: len(positives)] = 1
    return Samples(torch.from_numpy(item), torch.from_numpy(target))


def unseen_items(problem: Problem, user: int) -> np.ndarray:
    """Items outside the training items (leak-free) or the whole history (published), ascending."""
    touched = [problem.train[user]]
    if problem.protocol == "published":
        touched += [problem.validation[user], problem.test[user]]
    return np.setdiff1d(np.arange(problem.num_items), np.concatenate(touched))


def _train_all(
    problem: Problem,
    state: LoopState,
    received: dict[int, dict[str, Tensor]],
    config: LoopConfig,
    *,
    seed: int,
    labels: Tensor | None,
) -> LoopState:
    """Trains the clients one after another and averages their items."""
    rng = np.random.default_rng(seed)
    trained: dict[int, dict[str, Tensor]] = {}
    uploads: dict[int, Tensor] = {}
    losses: list[float] = []
    for client, parameters in received.items():
        model = copy.deepcopy(state.model)
        model.load_state_dict(parameters)
        samples = draw_samples(problem.train[client], state.unseen[client], config.negatives, rng)
        losses += _train_client(model, samples, config, labels, seed=int(rng.integers(2**62)))
        trained[client] = copy.deepcopy(model.state_dict())
        uploads[client] = trained[client][ITEMS].clone()
    mean_items = torch.zeros_like(state.mean_items)
    for upload in uploads.values():
        mean_items += upload
    mean_items /= len(uploads)
    return LoopState(
        model=state.model,
        clients=trained,
        mean_items=mean_items,
        labels=state.labels,
        unseen=state.unseen,
        loss=float(np.mean(losses)),
        batches=len(losses),
    )


def _train_client(
    model: LinearHead, samples: Samples, config: LoopConfig, labels: Tensor | None, *, seed: int
) -> list[float]:
    """Local epochs of head step, then item step; returns the loss of each batch (item step)."""
    loader: DataLoader = DataLoader(
        samples,
        batch_size=config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    head_step = torch.optim.SGD(model.head.parameters(), lr=config.lr)
    item_rate = config.lr * model.items.num_embeddings * config.item_lr_scale
    item_step = torch.optim.SGD(model.items.parameters(), lr=item_rate)
    bce = nn.BCELoss()
    losses = []
    model.train()
    for _ in range(config.local_epochs):
        for item, target in loader:
            for optimizer in (head_step, item_step):
                optimizer.zero_grad()
                loss = bce(model(item), target)
                if labels is not None and config.contrast_weight:
                    loss = loss + config.contrast_weight * contrastive_loss(
                        model.items.weight,
                        labels,
                        temperature=config.temperature,
                        base_temperature=config.base_temperature,
                    )
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
    return losses
