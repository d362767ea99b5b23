"""The per-client PyTorch loop that RQFedRec's round is compared with.

Written lean: no modules and no data loader, tables as tensors, a batch by index operations and one
backward pass, PyTorch's fused Adam over the whole table, negatives of a user in one draw, codewords
gathered by `embedding_bag` and added up by `index_add_`, updates in place. Clients are trained one
after another, each with all of torch's threads, and the server adds up what they upload.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedjax_rec.data import Problem
from fedjax_rec.methods.codebook_fit import Channel, Channels
from fedjax_rec.methods.rqfedrec import RQFedRecConfig

__all__ = ["Client", "Download", "Round", "Samples", "clients_of", "download", "fit", "run_round"]


class Stack(NamedTuple):
    """Channels that are fitted together.

    Attributes:
      table: [C·L·M, d] float32, their codewords.
      rows: [m, C·L] int64, each item's rows of the table.
      shares: [C·L·M, 1] float32, what a codeword counts in the items.
    """

    table: Tensor
    rows: Tensor
    shares: Tensor


class Download(NamedTuple):
    """What clients download: [m, d] items, and what is to be fitted to them."""

    items: Tensor
    stacks: tuple[Stack, ...]


class Client(NamedTuple):
    """One client: [U, d] user embeddings, its positives [P] with their users [P], and each user's
    items that may be drawn as negatives."""

    users: Tensor
    positives: Tensor
    owners: Tensor
    unseen: tuple[Tensor, ...]


class Samples(NamedTuple):
    """A round's samples of one client, [N] each."""

    items: Tensor
    users: Tensor
    labels: Tensor


class Round(NamedTuple):
    """What a round leaves, and where its time went.

    Attributes:
      tables: the stacks' tables, averaged by the clients' positives.
      users: every client's trained user embeddings.
      loss: mean over batches.
      training_seconds: draws, batches and what is around them.
      fit_seconds: fits and the server's sums.
    """

    tables: tuple[Tensor, ...]
    users: tuple[Tensor, ...]
    loss: float
    training_seconds: float
    fit_seconds: float


def download(channels: Channels, config: RQFedRecConfig) -> Download:
    """The broadcast of both channels at λ between 0 and 1, as tensors.

    Raises:
      ValueError: at λ = 0 or 1, where one of the channels rests.
    """
    weight = float(channels.weight)
    if not 0 < weight < 1:
        raise ValueError(f"λ = {weight}: this loop trains two channels")
    semantic, collaborative = (_stack([channel]) for channel in channels[:2])
    items = (1 - weight) * _gathered(semantic) + weight * _gathered(collaborative)
    if config.fit == "separate":
        return Download(items, (semantic, collaborative))
    return Download(items, (_stack(channels[:2], [1 - weight, weight]),))


def clients_of(
    problem: Problem, clients: Sequence[int], config: RQFedRecConfig, *, seed: int
) -> list[Client]:
    """The clients before their first round."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for client in clients:
        users = range(problem.client_starts[client], problem.client_starts[client + 1])
        lists = [problem.train[user] for user in users]
        everything = np.arange(problem.num_items)
        made.append(
            Client(
                config.init_std * torch.randn(len(lists), config.dim, generator=generator),
                torch.from_numpy(np.concatenate(lists).astype(np.int64)),
                torch.from_numpy(np.repeat(np.arange(len(lists)), [len(one) for one in lists])),
                tuple(torch.from_numpy(np.setdiff1d(everything, one)) for one in lists),
            )
        )
    return made


def run_round(
    clients: Sequence[Client], received: Download, config: RQFedRecConfig, *, seed: int
) -> Round:
    """One round of the given clients: training, fit, and the server's weighted mean."""
    generator = torch.Generator().manual_seed(seed)
    sums = [torch.zeros_like(stack.table) for stack in received.stacks]
    weight, users, losses = 0, [], []
    training = fitting = 0.0
    for client in clients:
        start = time.perf_counter()
        samples = draw(client, config.negatives, generator)
        touched, rows, counts = torch.unique(samples.items, return_inverse=True, return_counts=True)
        trained, items, loss = train(
            client.users,
            received.items[touched],
            samples._replace(items=rows),
            config,
            generator,
            num_items=len(received.items),
        )
        users.append(trained)
        losses += loss
        trained_at = time.perf_counter()
        importance = counts.float() if config.fit_items == "samples" else torch.ones(len(counts))
        for total, stack in zip(sums, received.stacks, strict=True):
            own = stack._replace(rows=stack.rows[touched])
            total.add_(fit(own, items, importance, config.fit_steps), alpha=len(client.positives))
        weight += len(client.positives)
        training += trained_at - start
        fitting += time.perf_counter() - trained_at
    means = tuple(total / weight for total in sums)
    return Round(means, tuple(users), float(np.mean(losses)), training, fitting)


def draw(client: Client, negatives: int, generator: torch.Generator) -> Samples:
    """A round's samples: the positives, and for each as many negatives of its user."""
    drawn = []
    for unseen, count in zip(client.unseen, torch.bincount(client.owners), strict=True):
        place = torch.randint(len(unseen), (int(count) * negatives,), generator=generator)
        drawn.append(unseen[place])
    positives = len(client.positives)
    labels = torch.zeros(positives * (1 + negatives))
    labels[:positives] = 1
    return Samples(
        torch.cat([client.positives, *drawn]),
        torch.cat([client.owners, client.owners.repeat_interleave(negatives)]),
        labels,
    )


def train(
    users: Tensor,
    items: Tensor,
    samples: Samples,
    config: RQFedRecConfig,
    generator: torch.Generator,
    *,
    num_items: int,
) -> tuple[Tensor, Tensor, list[float]]:
    """Local epochs of joint steps by Adam; the users, the items, and the loss of each batch."""
    users, items = users.clone().requires_grad_(), items.clone().requires_grad_()
    groups = [
        {"params": [users], "lr": config.lr},
        {"params": [items], "lr": config.items_rate(num_items)},
    ]
    optimizer = torch.optim.Adam(groups, weight_decay=config.weight_decay, fused=True)
    losses = []
    for _ in range(config.local_epochs):
        order = torch.randperm(len(samples.items), generator=generator)
        for batch in order.split(config.batch_size):
            logits = torch.linalg.vecdot(
                functional.embedding(samples.users[batch], users),
                functional.embedding(samples.items[batch], items),
            )
            loss = functional.binary_cross_entropy_with_logits(logits, samples.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return users.detach(), items.detach(), losses


def fit(stack: Stack, target: Tensor, importance: Tensor, steps: int) -> Tensor:
    """Preconditioned conjugate gradients: the table, fitted to the target items [n, d].

    The same steps as `fedjax_rec.methods.codebook_fit` takes, in the form that keeps what is left
    of the items.
    """
    table, rows, shares = stack
    weights = importance[:, None]

    def by_code(items: Tensor) -> Tensor:
        sums = torch.zeros_like(table)
        for level in rows.T:
            sums.index_add_(0, level, items)
        return sums

    samples = torch.zeros(len(table)).index_add_(
        0, rows.reshape(-1), importance.repeat_interleave(rows.shape[1])
    )
    scale = shares.square() / torch.where(samples > 0, samples, 1)[:, None]
    residual = target - functional.embedding_bag(rows, shares * table, mode="sum")
    gradient = by_code(weights * residual)
    direction = scale * gradient
    squared = torch.dot(gradient.reshape(-1), direction.reshape(-1))
    change = torch.zeros_like(table)
    for _ in range(steps):
        moved = functional.embedding_bag(rows, direction, mode="sum")
        curvature = torch.dot(importance, torch.linalg.vecdot(moved, moved))
        if not curvature > 0:
            break
        length = float(squared / curvature)
        change.add_(direction, alpha=length)
        residual.sub_(moved, alpha=length)
        gradient = by_code(weights * residual)
        steepest = scale * gradient
        following = torch.dot(gradient.reshape(-1), steepest.reshape(-1))
        direction.mul_(following / squared).add_(steepest)
        squared = following
    return table + change / shares


def _gathered(stack: Stack) -> Tensor:
    return functional.embedding_bag(stack.rows, stack.table, mode="sum")


def _stack(channels: Sequence[Channel], shares: Sequence[float] = (1.0,)) -> Stack:
    """Channels side by side: their levels are the levels of one table."""
    books = [torch.from_numpy(np.array(channel.codebook)) for channel in channels]
    codes = np.concatenate([np.asarray(channel.codes, np.int64) for channel in channels], axis=1)
    levels, words, dim = books[0].shape
    rows = codes + words * np.arange(codes.shape[1])
    each = torch.tensor(shares).repeat_interleave(levels * words)[:, None]
    return Stack(torch.cat(books).reshape(-1, dim), torch.from_numpy(rows), each)
