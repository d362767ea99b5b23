"""The score functions of FedNCF, FedRAP and GPFedRec as PyTorch modules, each of one user.

Their parameters have no values of their own: every client loads its own, and torch's global
generator is left alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Additive", "NeuMF", "UserNetwork"]


class NeuMF(nn.Module):
    """h·[p ∘ q_i, MLP([s, t_i])] + c: FedNCF's score of one user."""

    def __init__(self, num_items: int, dim: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.user_gmf, self.user_mlp = _table(1, dim), _table(1, dim)
        self.items_gmf, self.items_mlp = _table(num_items, dim), _table(num_items, dim)
        self.tower = _tower(2 * dim, layers)
        self.output = _linear(dim + layers[-1], 1)

    def forward(self, items: Tensor) -> Tensor:
        """Logits [n] of the items [n] int64."""
        user = self.user_mlp.weight.expand(len(items), -1)
        hidden = self.tower(torch.cat([user, self.items_mlp(items)], dim=1))
        dot = self.user_gmf.weight * self.items_gmf(items)
        return self.output(torch.cat([dot, hidden], dim=1)).squeeze(-1)


class Additive(nn.Module):
    """w·(D_i + C_i) + b: FedRAP's score."""

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.personal, self.common = _table(num_items, dim), _table(num_items, dim)
        self.head = _linear(dim, 1)


class UserNetwork(nn.Module):
    """MLP([p, E_i]): GPFedRec's score, the network the user's own."""

    def __init__(self, num_items: int, dim: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.user, self.items = _table(1, dim), _table(num_items, dim)
        self.tower = _tower(2 * dim, layers)
        self.output = _linear(layers[-1], 1)

    def forward(self, items: Tensor) -> Tensor:
        """Logits [n] of the items [n] int64."""
        user = self.user.weight.expand(len(items), -1)
        return self.output(self.tower(torch.cat([user, self.items(items)], dim=1))).squeeze(-1)


def _tower(inputs: int, layers: Sequence[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *layers]):
        modules += [_linear(before, after), nn.ReLU()]
    return nn.Sequential(*modules)


def _table(rows: int, dim: int) -> nn.Embedding:
    return nn.utils.skip_init(nn.Embedding, rows, dim)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, inputs, outputs)
