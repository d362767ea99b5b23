"""One client's training in PyTorch, lean: the step that Flower's, pfl's and the bare loop share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["step"]


def step(
    items: Tensor, head: Tensor, index: Tensor, labels: Tensor, lr: float, item_lr: float
) -> None:
    """The head's SGD step, then, on a fresh forward pass, that of the gathered rows. In place.

    Autograd sees the rows that the batch gathers and never the table: a dense gradient of a table
    that a batch touches in a few hundred rows would be most of the work.

    Args:
      items: [m, d] float32, the client's table.
      head: [d + 1] float32, w then b.
      index: [B] int, the batch's items.
      labels: [B] float32.
      lr: the head's rate.
      item_lr: the table's rate.
    """
    rows = items[index]
    own = head.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(rows, own, labels), own)
    with torch.no_grad():
        head.sub_(gradient, alpha=lr)
    rows.requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(rows, head.detach(), labels), rows)
    with torch.no_grad():
        items.index_add_(0, index, gradient, alpha=-item_lr)


def _loss(rows: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    logits = torch.addmv(head[-1:], rows, head[:-1])
    return functional.binary_cross_entropy_with_logits(logits, labels)
