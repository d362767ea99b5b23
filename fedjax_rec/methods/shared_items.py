"""The item table of methods whose clients all start a round from the same one.

What local training leaves of a table differs from the download only in the rows that the round's
samples name. So a client holds, trains and hands over these rows: O(touched · d) numbers instead
of O(m · d), with the same result. With 20 interactions, 4 negatives each and 10,000 items that is
a hundredth of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData, Samples, draw_round
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import WeightedSum, weighted_mean, weighted_sum
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.methods.uplink_options import Uplink

__all__ = ["Change", "Held", "ItemUpload", "SharedItems", "own_scores", "shared_items"]


@dataclass(frozen=True)
class ItemUpload(Uplink):
    """What of a client's item table travels, and what happens to it before.

    Attributes:
      upload: "table": all m rows, as in the papers. "rows": the changes of the rows that the
        client trained, and these items' ids: fewer bytes where clients are small, but the server
        sees which items a client trained on (its own and its negatives), so there is no ε.
    """

    upload: Literal["table", "rows"] = "table"

    def __post_init__(self) -> None:
        check_choice("upload", self.upload, ("table", "rows"))

    def epsilon(self, upload: Any, rounds: int) -> float | None:
        """ε of a client that uploads so ``rounds`` times; None where there is none.

        There is none for a ``Change``: its rows travel by name, or no noise is on them.
        """
        return None if isinstance(upload, Change) else super().epsilon(upload, rounds)


class Held(NamedTuple):
    """What a client holds of the item table within a round.

    Attributes:
      items: [T] int32, the items that it trains, m for padding; () where it holds all m.
      rows: [T, d] or [m, d] float32, their embeddings.
    """

    items: Any
    rows: jax.Array


class Change(NamedTuple):
    """What a client uploads of its rows.

    Attributes:
      items: [T] int32, m for padding.
      rows: [T, d] float32, trained less downloaded.
    """

    items: jax.Array
    rows: jax.Array


class SharedItems(NamedTuple):
    """How the clients of a method hold and hand over the item table.

    Attributes:
      begin: (key, [m, d] table, data, samples_key) -> (Held, Samples whose items are its rows).
      upload: (table, Held after training) -> what the client uploads.
      accumulator: table -> the empty sum.
      reduce: as ``Method.reduce``.
      mean: ([m, d] table, reduced) -> the [m, d] weighted mean of the clients' tables.
      wire: (table, sent) -> formats of one client's upload.
    """

    begin: Callable[..., tuple[Held, Samples]]
    upload: Callable[[jax.Array, Held], Any]
    accumulator: Callable[[jax.Array], WeightedSum]
    reduce: Callable[..., tuple[WeightedSum, Any]]
    mean: Callable[[jax.Array, WeightedSum], jax.Array]
    wire: Callable[[Any, Any], Any]


def shared_items(options: Any, *, keep_optimizer: bool = False, whole: bool = False) -> SharedItems:
    """The form that a method's options allow: touched rows where nothing else changes.

    A whole table is needed where all m rows change (weight decay, moments that are kept from round
    to round) or where something is done to every uploaded row (clip, noise, bits, with
    ``upload="table"``).

    Args:
      options: with the fields of ``ItemUpload`` and ``LocalTraining``.
      keep_optimizer: whether optimizers live on between rounds.
      whole: whether the server needs whole tables, client by client (``fusion``).

    Raises:
      InputError: ``upload="rows"`` where all rows change, or are needed.
    """
    decay = options.weight_decay
    all_change = bool(decay) or keep_optimizer
    if options.upload == "rows":
        if whole:
            raise InputError(
                "upload='rows' sends the rows of a client's samples, but fusion needs whole "
                "tables: leave one of the two out"
            )
        if all_change:
            what = f"weight_decay={decay:g}" if decay else "keep_optimizer"
            raise InputError(
                f"upload='rows' sends the rows of a client's samples, but {what} changes them all: "
                "leave it out, or use upload='table'"
            )
        return _touched(options, counted=True)
    transformed = options.clip is not None or options.laplace or options.bits is not None
    if whole or all_change or transformed:
        return _whole(options)
    return _touched(options, counted=False)


def own_scores(
    score_rows: Callable[[jax.Array], jax.Array], table: jax.Array, held: Held | tuple[()]
) -> jax.Array:
    """[m] scores by the rows that a client holds, and by the table for all others.

    Args:
      score_rows: [n, d] embeddings -> [n] scores.
      table: [m, d], the download.
      held: what the client holds; () between rounds.
    """
    if not held:
        return score_rows(table)
    if isinstance(held.items, tuple):
        return score_rows(held.rows)
    return score_rows(table).at[held.items].set(score_rows(held.rows), mode="drop")


def _whole(options: Any) -> SharedItems:
    def begin(key: jax.Array, table: jax.Array, data: ClientData, samples_key: Any = None):
        samples = draw_round(key, data, len(table), options.negatives, samples_key=samples_key)
        return Held((), table), samples

    return SharedItems(
        begin=begin,
        upload=lambda table, held: held.rows,
        accumulator=_empty,
        reduce=weighted_sum,
        mean=lambda table, reduced: weighted_mean(reduced),
        wire=lambda table, sent: uplink.dense(table),
    )


def _touched(options: Any, *, counted: bool) -> SharedItems:
    """``counted``: whether rows travel, so that each client's number of them matters."""

    def begin(key: jax.Array, table: jax.Array, data: ClientData, samples_key: Any = None):
        samples = draw_round(key, data, len(table), options.negatives, samples_key=samples_key)
        touched = touched_rows(samples, len(table))
        return Held(touched.items, touched.rows(table)), touched.samples

    def upload(table: jax.Array, held: Held) -> Change:
        downloaded = jnp.take(table, held.items, axis=0, mode="clip")
        return Change(held.items, held.rows - downloaded)

    def reduce(acc: WeightedSum, uploads: Change, weights: jax.Array):
        weighted = weights[:, None, None] * uploads.rows
        total = acc.total.at[uploads.items].add(weighted, mode="drop")
        sent = None
        if counted:
            sent = jnp.sum(uploads.items < len(acc.total), axis=1, dtype=jnp.int32)
        return WeightedSum(total, acc.weight + jnp.sum(weights)), sent

    def wire(table: Any, sent: Any) -> Any:
        if not counted:
            return uplink.dense(table)
        rows = jax.ShapeDtypeStruct((sent, table.shape[1]), table.dtype)
        return uplink.labels(sent, table.shape[0]), uplink.dense(rows)

    return SharedItems(
        begin=begin,
        upload=upload,
        accumulator=_empty,
        reduce=reduce,
        mean=lambda table, reduced: table + weighted_mean(reduced),
        wire=wire,
    )


def _empty(table: jax.Array) -> WeightedSum:
    return WeightedSum(jnp.zeros_like(table), jnp.float32(0))
