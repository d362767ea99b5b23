"""Options of what happens to an upload before it leaves the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedjax_rec import uplink

__all__ = ["Uplink"]


@dataclass(frozen=True)
class Uplink:
    """What happens to an upload before it leaves the client, in this order.

    Attributes:
      clip: bound on the Euclidean norm of each uploaded row; None: no bound.
      laplace: scale δ of Laplace noise added to every entry. Gives an ε only with --clip.
      bits: bits of row-wise min–max quantization; None: float32.
    """

    clip: float | None = None
    laplace: float | None = None
    bits: int | None = None

    def transform(self) -> uplink.Transform:
        """The composed transform; raises InputError for values out of range."""
        steps = []
        if self.clip is not None:
            steps.append(uplink.clip_rows(self.clip))
        if self.laplace:
            steps.append(uplink.laplace(self.laplace))
        if self.bits is not None:
            steps.append(uplink.quantize_rows(self.bits))
        return uplink.chain(*steps)

    def epsilon(self, table: Any, rounds: int) -> float | None:
        """ε of a client that uploads ``table`` ([m, d], or its shape struct) ``rounds`` times.

        None where there is none: no noise, or no clip to bound what it hides.
        """
        rows, dim = table.shape
        return uplink.epsilon(self.clip, self.laplace, rows=rows, dim=dim, rounds=rounds)
