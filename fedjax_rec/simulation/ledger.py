"""What travels: bytes up and down, counted from the arrays that a round sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.uplink import WireFormat

__all__ = ["Ledger", "RoundBytes", "round_bytes"]


class RoundBytes(NamedTuple):
    """Bytes of one round.

    Attributes:
      up_total, down_total: exact sums over the participants.
      clients: number of participants.
      down_values: numbers in the largest download, labels and indices among them.
    """

    up_total: int
    down_total: int
    clients: int
    down_values: int = 0

    @property
    def up(self) -> int:
        """Mean bytes that a participant sends, rounded."""
        return round(self.up_total / self.clients)

    @property
    def down(self) -> int:
        """Mean bytes that a participant receives, rounded."""
        return round(self.down_total / self.clients)


@dataclass
class Ledger:
    """Running totals over all clients since the first round, in bytes."""

    up: int = 0
    down: int = 0

    def add(self, sent: RoundBytes) -> None:
        """Books a round."""
        self.up += sent.up_total
        self.down += sent.down_total


def round_bytes(
    method: Method, broadcast: Broadcast, upload: Any, sent: Any = None, *, clients: int
) -> RoundBytes:
    """Bytes of one round.

    The formats come from the arrays themselves (size, dtype, number of classes, and what the
    reduction counted); the uplink transform then states what it does to the upload's (bits a
    value, scales a row). Clients that sent equally much are counted once, so that a million of
    them stay cheap.

    Args:
      method: whose round.
      broadcast: what is sent down in this round.
      upload: shapes of one client's upload before the uplink transform.
      sent: what ``method.reduce`` counted, a pytree of [clients] integers; None where the shapes
        say it all.
      clients: number of participants.
    """
    leaves, structure = jax.tree.flatten(sent)
    if not leaves:
        up, down, values = _one_client(method, broadcast, upload, sent)
        return RoundBytes(up * clients, down * clients, clients, values)
    distinct, times = np.unique(np.stack(leaves, axis=1), axis=0, return_counts=True)
    up_total = down_total = most = 0
    for counts, many in zip(distinct.tolist(), times.tolist(), strict=True):
        counted = jax.tree.unflatten(structure, counts)
        up, down, values = _one_client(method, broadcast, upload, counted)
        up_total += up * many
        down_total += down * many
        most = max(most, values)
    return RoundBytes(up_total, down_total, clients, most)


def _one_client(method, broadcast, upload, sent):
    traffic = method.traffic(broadcast, upload, sent)
    down = _formats(traffic.down)
    values = sum(leaf.values for leaf in down)
    return _bytes(_formats(method.uplink.wire(traffic.up))), _bytes(down), values


def _formats(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, WireFormat))


def _bytes(formats):
    return sum(leaf.bytes for leaf in formats)
