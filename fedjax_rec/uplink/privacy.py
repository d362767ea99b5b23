"""What clipping and Laplace noise amount to as differential privacy."""

from __future__ import annotations

import math

from fedjax_rec.errors import InputError

__all__ = ["epsilon"]


def epsilon(
    max_norm: float | None, scale: float | None, *, rows: int, dim: int, rounds: int = 1
) -> float | None:
    """ε of pure local differential privacy for a client's uploads.

    Neighbours: one client's whole upload replaced by another. Two rows of Euclidean norm at most c
    differ by at most 2c·√d in the L1 norm, so a table of m rows has L1 sensitivity 2·m·c·√d, and
    Laplace(0, δ) noise on every value gives ε = 2·m·c·√d/δ a round. Rounds compose by addition
    (basic composition: no amplification by sampling is claimed). Quantizing afterwards changes
    nothing: it is post-processing. Real-valued noise is assumed; the low bits of floating-point
    noise can leak (Mironov 2012), so ε describes the simulated mechanism, not a deployed one.

    Args:
      max_norm: c, the clipping bound of a row; None: no clip.
      scale: δ of the noise; None or 0: no noise.
      rows: m, rows of the upload.
      dim: d, length of a row.
      rounds: uploads that a client makes.

    Returns:
      ε, or None where there is none: without a clip the sensitivity is unbounded, and no δ gives
      an ε; without noise there is no privacy at all.

    Raises:
      InputError: a number that is negative, or a bound that is 0.

    Example:
      >>> epsilon(1.0, 0.5, rows=10, dim=4)
      80.0
      >>> epsilon(None, 0.5, rows=10, dim=4) is None
      True

    Reference:
      Dwork & Roth, "The Algorithmic Foundations of Differential Privacy", 2014, Definition 3.3
      and Theorem 3.16. Mironov, "On significance of the least significant bits for differential
      privacy", CCS 2012.
    """
    for name, value in {"laplace": scale or 0, "rows": rows, "dim": dim, "rounds": rounds}.items():
        if not value >= 0:
            raise InputError(f"{name}={value} must be 0 or more")
    if max_norm is not None and not max_norm > 0:
        raise InputError(f"clip={max_norm} must be a positive number")
    if max_norm is None or not scale:
        return None
    return rounds * 2 * rows * max_norm * math.sqrt(dim) / scale
