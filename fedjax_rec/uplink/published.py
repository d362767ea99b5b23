"""The communication table of the RQFedRec paper: its counts, from its formulas."""

from __future__ import annotations

from typing import Literal

from fedjax_rec.errors import InputError

__all__ = ["published_count"]


def published_count(
    method: Literal["fedmf", "fedcia", "rqfedrec"],
    *,
    items: int,
    dim: int | None = None,
    levels: int | None = None,
    codewords: int | None = None,
) -> int:
    """How many numbers a client downloads in a round, as the paper's table counts them.

        FedMF: n·d      FedCIA: n²      RQFedRec: 2·(L·M·d + n·L)

    RQFedRec's 2 stands for its channels: each has a codebook, and n items of L codes.

    These are numbers, not bytes, and not what a run of ours reports. Its ledger counts the bytes
    of what travels (``Method.traffic``), which differs in this:

    * a code takes ceil(log2 M) bits (``labels``); here it counts as much as a float. Both count
      codes in every round, though they change only when they are remade;
    * a channel of weight 0 does not travel in ours;
    * FedCIA's matrix is symmetric, so one triangle is enough (``triangle``); here it is all n²;
    * uploads are not in the table. They have no codes, and an uplink transform may shrink them.

    Args:
      method: one of the table's three.
      items: n.
      dim: d, width of the embeddings (FedMF, RQFedRec).
      levels: L of the codebook (RQFedRec).
      codewords: M, codewords a level (RQFedRec).

    Raises:
      InputError: another method, or a number that the method needs is missing or below 1.

    Example:
      >>> published_count("fedmf", items=1682, dim=512)
      861184
      >>> published_count("rqfedrec", items=1682, dim=512, levels=3, codewords=256)
      796524

    Reference:
      RQFedRec, the table of communication costs (d = 512, L = 3).
    """

    def need(name: str, number: int | None) -> int:
        if number is None or number < 1:
            raise InputError(f"the published count of {method} needs {name} of 1 or more: {number}")
        return number

    n = need("items", items)
    if method == "fedmf":
        return n * need("dim", dim)
    if method == "fedcia":
        return n * n
    if method == "rqfedrec":
        codes = n * need("levels", levels)
        codebook = need("levels", levels) * need("codewords", codewords) * need("dim", dim)
        return 2 * (codebook + codes)
    raise InputError(
        f"the published table has no {method!r}: it counts 'fedmf', 'fedcia' and 'rqfedrec'"
    )
