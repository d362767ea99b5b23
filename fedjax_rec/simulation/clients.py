"""THE place that runs clients: the methods' one-client functions, batched, looped and sharded.

Each program covers one bucket on all devices. On every device a loop takes the bucket's
participants in groups of ``width`` clients, vmaps the method's functions over the group, adds its
uploads to the device's accumulator and writes its states back in place. ``width`` is a choice of
the execution plan, never of a method:

* wide on an accelerator, where one client's arrays are far too small to fill the device;
* 1 on a CPU, where a client's tables then stay in the core's cache, every client does exactly its
  own number of batches, and a condition skips work instead of computing both sides.

With ``width`` 1 nothing is vmapped at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fedjax_rec.batches import ClientData
from fedjax_rec.evaluation.ranks import TOP_K, HeldOut, Ranks, rank_user
from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.methods.traced import taking_arguments
from fedjax_rec.seeding import Purpose
from fedjax_rec.threefry import fold_in

__all__ = [
    "AXIS",
    "Places",
    "Report",
    "blank_ranks",
    "blank_reports",
    "evaluate_bucket",
    "evaluate_client",
    "init_clients",
    "own_broadcast",
    "train_bucket",
    "train_client",
    "upload_shape",
]

AXIS = "clients"
_BATCHED = PartitionSpec(AXIS)
_SHARED = PartitionSpec()
_BROADCAST = Broadcast(shared=_SHARED, per_client=_BATCHED)
PyTree = Any


class Places(NamedTuple):
    """Where a bucket begins on every device.

    Attributes:
      states: [] int32, among the rows of the states that the program is given.
      rows: [] int32, among all R rows of a device.
    """

    states: Any
    rows: Any


class Report(NamedTuple):
    """What a trained client reports to the simulator (never to the server).

    Attributes:
      loss: [] float32 mean training loss.
      healthy: [] bool, whether its loss and the state it keeps are finite.
      ranks: Ranks by user slot right after training, or None when not asked for.
      sent: what ``reduce`` counted of its upload, a pytree of [] int32, or None.
    """

    loss: Any
    healthy: Any
    ranks: Ranks | None
    sent: Any = None


def train_client(
    method: Method,
    round_key: jax.Array,
    state: PyTree,
    download: Broadcast,
    data: ClientData,
    held_out: HeldOut,
    most_users: jax.Array | int,
    *,
    evaluate: bool,
) -> tuple[PyTree, PyTree, jax.Array, Report]:
    """One client's round: download (its own row in ``per_client``), local training, upload.

    Returns:
      The state it keeps, its upload as the server receives it, its weight, and its report.
    """
    state = method.receive(_key(round_key, Purpose.RECEIVE, data), state, download, data)
    state, upload, info = method.local_update(
        _key(round_key, Purpose.LOCAL_UPDATE, data), state, download, data
    )
    ranks = None
    if evaluate:
        ranks = _rank(method, state, download.shared, held_out, most_users)
    upload = method.uplink.apply(_key(round_key, Purpose.UPLINK, data), upload)
    state = method.retain(state)
    report = Report(info.loss.astype(jnp.float32), _healthy(info.loss, state), ranks)
    return state, upload, method.weight(data), report


def evaluate_client(
    method: Method,
    round_key: jax.Array,
    state: PyTree,
    download: Broadcast,
    data: ClientData,
    held_out: HeldOut,
    most_users: jax.Array | int,
) -> Ranks:
    """Ranks of one client's users at download: what they would be served next."""
    state = method.receive(_key(round_key, Purpose.RECEIVE, data), state, download, data)
    return _rank(method, state, download.shared, held_out, most_users)


def init_clients(
    method: Method, mesh: Mesh, key: jax.Array, server: PyTree, users: int
) -> Callable[[jax.Array], PyTree]:
    """Builds the jitted program of first states: client ids [n] -> [n, …], sharded as they are."""

    def one(client, server):
        own = jax.random.fold_in(jax.random.fold_in(key, int(Purpose.INIT_CLIENT)), client)
        return method.init_client(own, server, users)

    sharding = jax.NamedSharding(mesh, _BATCHED)
    program = jax.jit(jax.vmap(one, in_axes=(0, None)), out_shardings=sharding)
    # As an argument: JAX refuses to close over an array that several processes share.
    return lambda ids: program(ids, server)


def train_bucket(
    method: Method, mesh: Mesh, width: int, *, evaluate: bool
) -> Callable[..., tuple[PyTree, PyTree, Report]]:
    """Builds the jitted program that trains one bucket's participants.

    The program takes (numbers, acc, states, kept, sent, places, data, held_out, order, counts,
    broadcast, round_key): the numbers among the method's options; the accumulators [devices, …],
    the states [devices · rows, …] and the uploads that are kept, [R, …] or None, all three donated;
    zeros by row of the bucket for what the reduction counts; where the bucket begins; its data;
    each device's rows to train, participants first, padded to a multiple of ``width``; how many of
    them take part. It returns (acc, states, kept, Report by row of the bucket).
    """
    train = partial(train_client, method, evaluate=evaluate)

    def on_device(
        acc, states, kept, sent, places, data, held_out, order, counts, broadcast, round_key
    ):
        count = counts[0]

        def group(index, carry):
            acc, states, kept, reports = carry
            picked, active = _pick(order, index, width, count)
            picked_data, picked_held_out = _take((data, held_out), picked)
            new, uploads, weights, report = _side_by_side(train, width)(
                round_key,
                _take(states, places.states + picked),
                _take_own(broadcast, places.rows + picked),
                picked_data,
                picked_held_out,
                active,
            )
            acc, counted = method.reduce(acc, uploads, jnp.where(active, weights, 0))
            report = report._replace(sent=counted)
            states = _put(states, new, places.states + picked, active)
            if kept is not None:
                kept = _put(kept, uploads, places.rows + picked, active)
            reports = _put(reports, report, picked, active)
            return acc, states, kept, reports

        acc = jax.tree.map(lambda x: x[0], acc)
        reports = blank_reports(sent, held_out, evaluate)
        groups = (count + width - 1) // width
        carry = jax.lax.fori_loop(0, groups, group, (acc, states, kept, reports))
        return jax.tree.map(lambda x: x[None], carry[0]), *carry[1:]

    shards = jax.shard_map(
        taking_arguments(method.config, on_device),
        mesh=mesh,
        in_specs=(_SHARED, *[_BATCHED] * 4, _SHARED, *[_BATCHED] * 4, _BROADCAST, _SHARED),
        out_specs=_BATCHED,
        check_vma=False,
    )
    return jax.jit(shards, donate_argnums=(1, 2, 3))


def evaluate_bucket(method: Method, mesh: Mesh, width: int) -> Callable[..., Ranks]:
    """Builds the jitted program that ranks one bucket's users at download.

    It takes (numbers, states, places, data, held_out, order, counts, broadcast, round_key) as
    ``train_bucket``, donates nothing, and returns Ranks by row and user slot.
    """
    rank = partial(evaluate_client, method)

    def on_device(states, places, data, held_out, order, counts, broadcast, round_key):
        count = counts[0]
        rows = data.positives.shape[0]

        def group(index, ranks):
            picked, active = _pick(order, index, width, count)
            picked_data, picked_held_out = _take((data, held_out), picked)
            new = _side_by_side(rank, width)(
                round_key,
                _take(states, places.states + picked),
                _take_own(broadcast, places.rows + picked),
                picked_data,
                picked_held_out,
                active,
            )
            return _put(ranks, new, picked, active)

        groups = (count + width - 1) // width
        return jax.lax.fori_loop(0, groups, group, blank_ranks(held_out, (rows,)))

    shards = jax.shard_map(
        taking_arguments(method.config, on_device),
        mesh=mesh,
        in_specs=(_SHARED, _BATCHED, _SHARED, *[_BATCHED] * 4, _BROADCAST, _SHARED),
        out_specs=_BATCHED,
        check_vma=False,
    )
    return jax.jit(shards)


def upload_shape(
    method: Method, state: PyTree, broadcast: Broadcast, data: ClientData
) -> tuple[PyTree, PyTree]:
    """Shapes of one client's upload, before and after the uplink transform; nothing runs."""

    def one(key, state, broadcast, data):
        download = own_broadcast(broadcast, 0)
        state = method.receive(key, state, download, data)
        _, upload, _ = method.local_update(key, state, download, data)
        return upload, method.uplink.apply(key, upload)

    return jax.eval_shape(one, jax.random.key(0), state, broadcast, data)


def own_broadcast(broadcast: Broadcast, row: jax.Array | int) -> Broadcast:
    """The broadcast as one client sees it: its own row of ``per_client``."""
    if broadcast.per_client is None:
        return broadcast
    return broadcast._replace(per_client=jax.tree.map(lambda x: x[row], broadcast.per_client.rows))


def blank_ranks(held_out: HeldOut, rows: tuple[int, ...]) -> Ranks:
    """Ranks of nobody (-1), with ``held_out``'s shapes after a leading axis of ``rows``."""

    def blank(items):
        return jnp.full((*rows, *items.shape[len(rows) :]), -1)

    sampled = held_out.candidates is not None
    validation, test = blank(held_out.validation), blank(held_out.test)
    top = jnp.full((*validation.shape[:-1], TOP_K), -1)
    return Ranks(
        validation_sampled=validation if sampled else None,
        validation_full=validation,
        test_sampled=test if sampled else None,
        test_full=test,
        validation_top=None if sampled else top,
        test_top=None if sampled else top,
    )


def blank_reports(sent: PyTree, held_out: HeldOut, evaluate: bool) -> Report:
    """Reports of a bucket in which nobody has trained yet; ``sent`` is zeros by row, or None."""
    rows = held_out.users.shape[0]
    return Report(
        loss=jnp.zeros(rows),
        healthy=jnp.ones(rows, bool),
        ranks=blank_ranks(held_out, (rows,)) if evaluate else None,
        sent=sent,
    )


def _healthy(loss, state):
    """Whether a client may go on. Its upload is not looked through here: the engine checks the
    sum of all uploads, once a round instead of once a client."""
    healthy = jnp.isfinite(loss)
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            # A sum is finite exactly when all terms are, short of an overflow near 1e38.
            healthy &= jnp.isfinite(jnp.sum(leaf, dtype=jnp.float32))
    return healthy


def _key(round_key, purpose, data):
    return fold_in(fold_in(round_key, int(purpose)), data.client)


def _rank(method, state, shared, held_out, most_users):
    """Ranks by user slot, [U, …]; only the first ``most_users`` slots are scored."""
    slots = held_out.seen.shape[0]

    def slot(user, ranks):
        row = jax.tree.map(lambda x: x[user], held_out._replace(users=None))
        mine = rank_user(method.scores(state, shared, user), row)
        return jax.tree.map(lambda all_, one: all_.at[user].set(one), ranks, mine)

    blank = blank_ranks(held_out, ())
    if slots == 1:
        return slot(0, blank)
    return jax.lax.fori_loop(0, most_users, slot, blank)


def _side_by_side(function, width):
    """``function`` of one client, for a group with a leading axis of ``width`` clients."""

    def run(round_key, states, downloads, data, held_out, active):
        # Loop lengths must not be batched: the group runs as long as its longest client.
        longest = jnp.max(jnp.where(active, data.positives, 0))
        most_users = jnp.max(jnp.where(active, held_out.users, 0))

        def one(state, own, data, held_out):
            data = data._replace(longest=longest)
            download = downloads._replace(per_client=own)
            return function(round_key, state, download, data, held_out, most_users)

        batched = states, downloads.per_client, data, held_out
        if width == 1:
            out = one(*jax.tree.map(lambda x: x[0], batched))
            return jax.tree.map(lambda x: jnp.asarray(x)[None], out)
        return jax.vmap(one)(*batched)

    return run


def _pick(order, index, width, count):
    """The group's rows, and which of them take part (the last group may be short)."""
    first = index * width
    picked = jax.lax.dynamic_slice_in_dim(order, first, width)
    return picked, first + jnp.arange(width) < count


def _take(tree, rows):
    if rows.shape[0] == 1:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, rows[0], 1), tree)
    return jax.tree.map(lambda x: x[rows], tree)


def _take_own(broadcast, rows):
    """The broadcast with the group's own rows of ``per_client``, [width, …]."""
    if broadcast.per_client is None:
        return broadcast
    return broadcast._replace(per_client=_take(broadcast.per_client.rows, rows))


def _put(tree, new, rows, active):
    """Writes the group's rows back in place; rows that take no part stay as they are."""
    if rows.shape[0] == 1:  # a loop of one client runs only for participants
        return jax.tree.map(
            lambda x, n: jax.lax.dynamic_update_slice_in_dim(x, n, rows[0], 0), tree, new
        )

    def put(x, n):
        return x.at[jnp.where(active, rows, x.shape[0])].set(n, mode="drop")

    return jax.tree.map(put, tree, new)
