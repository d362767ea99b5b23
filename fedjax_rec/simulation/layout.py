"""Where every client lives: sorted by size, dealt out to devices, cut into buckets of one shape.

Clients differ in size by a factor of forty. Sorted by their number of training interactions and
cut into a few buckets, each padded to its own longest client, they waste little and compile to few
programs. With several devices the sorted clients are dealt out like cards, so every device gets
the same mix and the same bucket shapes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem, Ragged, forbidden_items
from fedjax_rec.evaluation.ranks import HeldOut

__all__ = ["Bucket", "Layout", "lay_out"]

# More buckets save padding but cost a compilation each: stop where the padding left is small,
# relative to the work or in itself.
_MAX_BUCKETS = 4
_ACCEPTED_PADDING = 1.25
_ACCEPTED_ENTRIES = 10_000
# Negatives are looked up rather than searched for while the tables stay below 64 MB.
_LOOKUP_ENTRIES = 16_000_000


class Bucket(NamedTuple):
    """A range of rows, the same on every device, whose clients are padded to one shape.

    Attributes:
      kind: number of the first bucket of the same shapes: buckets of one kind share programs.
      start, stop: rows of each device's part of the client axis.
      clients: [devices, rows] int32 client ids; -1 for a row that no client uses.
      data: ClientData with leaves [devices, rows, …].
      held_out: HeldOut with leaves [devices, rows, …].
    """

    kind: int
    start: int
    stop: int
    clients: np.ndarray
    data: ClientData
    held_out: HeldOut

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Layout(NamedTuple):
    """The client axis of every batched array: [devices · rows], device after device.

    Attributes:
      devices: number of devices that the axis is sharded over.
      rows: rows a device.
      client_of_row: [devices · rows] int32, -1 for unused rows.
      row_of_client: [num_clients] int64.
      buckets: in ascending order of client size.
    """

    devices: int
    rows: int
    client_of_row: np.ndarray
    row_of_client: np.ndarray
    buckets: tuple[Bucket, ...]


def lay_out(problem: Problem, devices: int, *, most_rows: int | None = None) -> Layout:
    """Sorts, deals and buckets the clients of a problem.

    Args:
      problem: the prepared federation.
      devices: number of devices to deal the clients out to.
      most_rows: a bucket of more rows than this is cut into several of one shape; None: none is.
    """
    count = problem.num_clients
    sizes = np.diff(problem.train.starts[problem.client_starts])
    rows = -(-count // devices)
    # Unused rows come first, where the clients are smallest. Row j of device d holds sorted
    # client j·devices + d.
    order = np.concatenate([np.full(rows * devices - count, -1), np.argsort(sizes, kind="stable")])
    dealt = order.reshape(rows, devices).T.astype(np.int32)
    client_of_row = dealt.reshape(-1)
    row_of_client = np.empty(count, np.int64)
    used = client_of_row >= 0
    row_of_client[client_of_row[used]] = np.flatnonzero(used)

    longest = np.where(dealt >= 0, sizes[dealt], 0).max(axis=0)
    avoided = forbidden_items(problem)
    buckets: list[Bucket] = []
    for start, stop in _cut(np.maximum(longest, 1)):
        whole = _bucket(problem, avoided, start, stop, dealt[:, start:stop])
        buckets += _pieces(whole._replace(kind=len(buckets)), most_rows)
    return Layout(devices, rows, client_of_row, row_of_client, tuple(buckets))


def _pieces(bucket: Bucket, most_rows: int | None) -> list[Bucket]:
    """Cuts a bucket into pieces of equally many rows. The last one begins earlier if need be, and
    the rows that it has in common with the piece before are nobody's there."""
    count = 1 if most_rows is None else -(-bucket.rows // most_rows)
    if count == 1:
        return [bucket]
    size = -(-bucket.rows // count)
    pieces = []
    for index in range(count):
        first = min(index * size, bucket.rows - size)
        part = slice(first, first + size)
        clients, data, held_out = jax.tree.map(
            lambda x, part=part: x[:, part], (bucket.clients, bucket.data, bucket.held_out)
        )
        again = index * size - first
        if again:
            clients = clients.copy()
            clients[:, :again] = -1
        start = bucket.start + first
        pieces.append(Bucket(bucket.kind, start, start + size, clients, data, held_out))
    return pieces


def _cut(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Cuts ascending lengths into ranges with little padding: the fewest that leave at most 25 %.

    Dynamic programming over the distinct lengths: cost[b, i] is the padded work of the first i
    lengths in b ranges.
    """
    ends = np.flatnonzero(np.append(np.diff(lengths) > 0, True)) + 1
    starts = np.concatenate([[0], ends])
    values = lengths[ends - 1]
    if len(ends) > 512:  # many distinct lengths: consider every few of them as cuts
        keep = np.unique(np.linspace(0, len(ends) - 1, 512).round().astype(int))
        ends, values = ends[keep], values[keep]
        starts = np.concatenate([[0], ends])

    work = starts[None, 1:] - starts[:-1, None]  # [first, last] clients in the range
    padded = np.where(work > 0, work * values[None, :], np.inf)
    cost = np.concatenate([[0.0], np.full(len(ends), np.inf)])
    choices: list[np.ndarray] = []
    for _ in range(_MAX_BUCKETS):
        options = cost[:-1, None] + padded
        choices.append(options.argmin(axis=0))
        cost = np.concatenate([[np.inf], options.min(axis=0)])
        if cost[-1] <= max(_ACCEPTED_PADDING * lengths.sum(), lengths.sum() + _ACCEPTED_ENTRIES):
            break

    cuts = [len(ends)]
    for choice in reversed(choices):
        cuts.append(int(choice[cuts[-1] - 1]))
    bounds = [int(starts[c]) for c in reversed(cuts)]
    return [(a, b) for a, b in pairwise(bounds) if b > a]


def _bucket(
    problem: Problem, avoided: Ragged, start: int, stop: int, clients: np.ndarray
) -> Bucket:
    """Pads the clients of rows start … stop to one shape."""
    shape = clients.shape
    flat = clients.reshape(-1)
    first = problem.client_starts[np.maximum(flat, 0)]
    users = np.where(flat >= 0, problem.client_starts[np.maximum(flat, 0) + 1] - first, 0)
    slots = int(problem.users_per_client.max())

    items, count = _by_client(problem.train, first, users)
    owner, _ = _by_client(_local_owner(problem.train, first, users), first, users)
    forbidden, _ = _by_client(_shifted(avoided), first, users)
    slot = np.minimum(np.arange(slots + 1)[None, :], users[:, None])
    base = avoided.starts[first]
    data = ClientData(
        client=flat,
        positives=count,
        items=items,
        users=owner,
        forbidden=forbidden,
        forbidden_starts=(avoided.starts[first[:, None] + slot] - base[:, None]).astype(np.int32),
        longest=count,
        allowed=_allowed(problem, avoided, flat) if slots == 1 else None,
    )
    held_out = _held_out(problem, first, users, slots)

    def deal(x):
        return x.reshape(*shape, *x.shape[1:])

    return Bucket(
        0,
        start,
        stop,
        clients,
        jax.tree.map(deal, data),
        jax.tree.map(deal, held_out),
    )


def _held_out(problem: Problem, first, users, slots) -> HeldOut:
    """Evaluation data of each row's user slots, padded with -1 (an index that is dropped)."""
    slot = np.arange(slots)[None, :]
    exists = slot < users[:, None]
    user = np.where(exists, first[:, None] + slot, 0)

    def padded(lists: Ragged) -> np.ndarray:
        lengths = np.where(exists, lists.lengths[user], 0)
        width = max(1, int(lengths.max()))
        column = np.arange(width)
        inside = column < lengths[..., None]
        at = np.where(inside, lists.starts[user][..., None] + column, 0)
        values = lists.values if len(lists.values) else np.zeros(1, np.int32)
        return np.where(inside, values[at], -1).astype(np.int32)

    candidates = None
    if problem.evaluation_negatives is not None:
        both = np.stack(problem.evaluation_negatives, axis=1)  # [users, 2, 99]
        candidates = np.where(exists[..., None, None], both[user], -1)
    return HeldOut(
        users=users.astype(np.int32),
        seen=padded(problem.train),
        validation=padded(problem.validation),
        test=padded(problem.test),
        candidates=candidates,
    )


def _by_client(lists: Ragged, first, users) -> tuple[np.ndarray, np.ndarray]:
    """The lists of each row's users, end to end. [rows, longest] int32 and [rows] int32 lengths."""
    starts = lists.starts[first]
    lengths = np.where(users > 0, lists.starts[first + users] - starts, 0)
    width = max(1, int(lengths.max()))
    column = np.arange(width)[None, :]
    inside = column < lengths[:, None]
    at = np.where(inside, starts[:, None] + column, 0)
    return np.where(inside, lists.values[at], 0).astype(np.int32), lengths.astype(np.int32)


def _local_owner(lists: Ragged, first, users) -> Ragged:
    """Each entry's user, counted within its client."""
    position = np.zeros(len(lists), np.int64)
    for k in range(int(users.max(initial=1))):
        has = users > k
        position[first[has] + k] = k
    return Ragged(lists.starts, np.repeat(position, lists.lengths).astype(np.int32))


def _allowed(problem: Problem, avoided: Ragged, clients: np.ndarray) -> np.ndarray | None:
    """Each client's items that negatives may be, ascending; None where that is too much to hold."""
    if problem.num_clients * problem.num_items > _LOOKUP_ENTRIES:
        return None
    out = np.zeros((len(clients), problem.num_items), np.int32)
    free = np.empty(problem.num_items, bool)
    for row, client in enumerate(np.maximum(clients, 0)):
        free[:] = True
        free[avoided[client]] = False
        items = np.flatnonzero(free)
        out[row, : len(items)] = items
    return out


def _shifted(lists: Ragged) -> Ragged:
    """Each sorted entry less its rank within the list: what negative sampling searches."""
    rank = np.arange(len(lists.values)) - np.repeat(lists.starts[:-1], lists.lengths)
    return Ragged(lists.starts, (lists.values - rank).astype(np.int32))
