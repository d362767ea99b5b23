"""What travels: bytes up and down, counted from the arrays that a round sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.uplink import WireFormat

__all__ = ["Ledger", "RoundBytes", "round_bytes"]


class RoundBytes(NamedTuple):
    """Bytes that one participating client sends up and receives down in one round."""

    up: int
    down: int


@dataclass
class Ledger:
    """Running totals over all clients since the first round, in bytes."""

    up: int = 0
    down: int = 0

    def add(self, each: RoundBytes, clients: int) -> None:
        """Books a round in which ``clients`` clients took part."""
        self.up += each.up * clients
        self.down += each.down * clients


def round_bytes(method: Method, broadcast: Broadcast, upload: Any) -> RoundBytes:
    """Bytes of one client's round.

    The formats come from the arrays themselves (size, dtype, number of classes); the uplink
    transform then states what it does to the upload's (bits a value, scales a row).

    Args:
      method: whose round.
      broadcast: what is sent down in this round.
      upload: shapes of one client's upload before the uplink transform.
    """
    traffic = method.traffic(broadcast, upload)
    return RoundBytes(up=_bytes(method.uplink.wire(traffic.up)), down=_bytes(traffic.down))


def _bytes(formats):
    leaves = jax.tree.leaves(formats, is_leaf=lambda x: isinstance(x, WireFormat))
    return sum(leaf.bytes for leaf in leaves)
