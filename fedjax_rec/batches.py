"""What one client trains on, and how it turns that into shuffled, masked batches on the device.

Positives are stored once; negatives are drawn anew every round and the samples are shuffled anew
every epoch, all inside the compiled program, so nothing of it crosses from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fedjax_rec.threefry import fold_in, random_blocks

__all__ = [
    "Batch",
    "ClientData",
    "Samples",
    "draw_round",
    "draw_samples",
    "epoch_order",
    "for_each_batch",
    "sample_negatives",
]

Carry = TypeVar("Carry")

_PACKED_INDEX_BITS = 16  # beside 16 random ones


class ClientData(NamedTuple):
    """One client's training data, padded. P, F and U are shared by all clients of a bucket.

    Attributes:
      client: [] int32, the client's id (folded into its keys).
      positives: [] int32, how many there are.
      items: [P] int32, positives by user; 0 beyond ``positives``.
      users: [P] int32, the local user (0 … U − 1) of each positive.
      forbidden: [F] int32, the items that negatives avoid, sorted within each user and stored as
        item − rank (the r-th item that is *not* forbidden is then one binary search away).
      forbidden_starts: [U + 1] int32, each user's part of ``forbidden``.
      longest: [] int32, the largest ``positives`` among the clients trained side by side. It sets
        loop lengths, so it is one number for the whole group, never a batched one.
      allowed: [m] int32, the items that are *not* forbidden (0 beyond them): the answers of the
        binary search, looked up. Only where clients are one user each and there is room for it.

    Arrays of NumPy while they are laid out on the host, of JAX from then on.
    """

    client: Any
    positives: Any
    items: Any
    users: Any
    forbidden: Any
    forbidden_starts: Any
    longest: Any
    allowed: Any = None

    @property
    def num_users(self) -> int:
        """U, the number of user slots (1: every client is one user)."""
        return self.forbidden_starts.shape[-1] - 1


class Samples(NamedTuple):
    """A round's samples of one client before shuffling: each positive, then its negatives.

    ``items`` and ``users`` are [N] int32, ``valid`` is [N] bool, with N = P·(1 + negatives); every
    (1 + negatives)-th is a positive, the valid ones come first.
    """

    items: jax.Array
    users: jax.Array
    valid: jax.Array


class Batch(NamedTuple):
    """One batch. [B] each; ``users`` is the scalar 0 when the client is one user."""

    items: jax.Array
    users: jax.Array
    labels: jax.Array
    mask: jax.Array


def sample_negatives(key: jax.Array, data: ClientData, num_items: int, negatives: int) -> jax.Array:
    """Draws, for every positive, items that its user may see as negatives.

    Uniform with replacement over the items outside the user's forbidden list, and exact: no
    rejection, so the cost does not depend on how much a user has seen. With the forbidden items
    f_0 < f_1 < …, the r-th allowed item is r + #{j : f_j − j ≤ r}.

    A positive's draws depend on the key and its place, not on P: how far a client is padded, which
    differs with the number of devices, changes nothing.

    Args:
      key: PRNG key.
      data: one client.
      num_items: m.
      negatives: draws a positive.

    Returns:
      [P, negatives] int32. Draws for padded positives are valid items too; mask them.
    """
    starts = data.forbidden_starts[data.users][:, None]
    stops = data.forbidden_starts[data.users + 1][:, None]
    allowed = (num_items - (stops - starts)).astype(jnp.uint32)
    bits = _random_words(key, data.users.shape[0], negatives)
    rank = _multiply_high(bits, allowed).astype(jnp.int32)
    if data.allowed is not None:
        return data.allowed[rank]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        found = (low < high) & (data.forbidden[middle] <= rank)
        return jnp.where(found, middle + 1, low), jnp.where(found, high, middle)

    # A loop, not unrolled: XLA would fuse the steps into one expression that repeats the first
    # ones many times over.
    bounds = (jnp.broadcast_to(starts, rank.shape), jnp.broadcast_to(stops, rank.shape))
    low, _ = jax.lax.fori_loop(0, data.forbidden.shape[-1].bit_length(), halve, bounds)
    return rank + low - starts


def draw_samples(key: jax.Array, data: ClientData, num_items: int, negatives: int) -> Samples:
    """A round's samples: the positives and ``negatives`` fresh negatives for each."""
    drawn = sample_negatives(key, data, num_items, negatives)
    items = jnp.concatenate([data.items[:, None], drawn], axis=1).reshape(-1)
    return Samples(
        items=items,
        users=jnp.repeat(data.users, 1 + negatives),
        valid=jnp.arange(items.shape[0]) < data.positives * (1 + negatives),
    )


def draw_round(
    key: jax.Array,
    data: ClientData,
    num_items: int,
    negatives: int,
    *,
    samples_key: jax.Array | None = None,
) -> Samples:
    """The samples that ``for_each_batch`` draws by itself, with the same arguments."""
    if samples_key is None:
        samples_key = fold_in(key, 0)
    return draw_samples(samples_key, data, num_items, negatives)


def for_each_batch(
    key: jax.Array,
    data: ClientData,
    step: Callable[[Carry, Batch], Carry],
    carry: Carry,
    *,
    num_items: int,
    negatives: int,
    batch_size: int,
    epochs: int,
    samples_key: jax.Array | None = None,
    samples: Samples | None = None,
) -> Carry:
    """Runs ``step`` over every batch of every epoch of a client's round.

    Negatives are drawn once for the round (as the releases of this family do), the order anew for
    every epoch. The last batch of an epoch is short; a client with fewer batches than the longest
    of its group sees batches whose mask is all false, which must change nothing. Where the arrays
    have room for fewer samples than a batch, it is as large as they are, and nothing is shuffled.

    Args:
      key: the client's key for this round.
      data: one client.
      step: (carry, batch) -> carry.
      carry: what the steps pass on.
      num_items: m.
      negatives: negatives a positive.
      batch_size: B.
      epochs: local epochs.
      samples_key: of the negatives' draw; None: one of the round's own. A key that stays the same
        gives the same negatives in every round.
      samples: the round's samples, drawn before; None: drawn here. Their ``items`` may be other
        names of the items, such as rows of a smaller table.
    """
    if samples is None:
        samples = draw_round(key, data, num_items, negatives, samples_key=samples_key)
    total = samples.items.shape[0]
    batch_size = min(batch_size, total)
    padding = -total % batch_size
    used = data.positives * (1 + negatives)
    batches = (data.longest * (1 + negatives) + batch_size - 1) // batch_size

    def epoch(index, carry):
        order = jnp.pad(epoch_order(key, index, samples, batch_size), (0, padding))
        items = samples.items[order]
        users = samples.users[order] if data.num_users > 1 else None

        def batch(index, carry):
            start = index * batch_size

            def part(x):
                return jax.lax.dynamic_slice_in_dim(x, start, batch_size)

            return step(
                carry,
                Batch(
                    items=part(items),
                    users=jnp.int32(0) if users is None else part(users),
                    labels=(part(order) % (1 + negatives) == 0).astype(jnp.float32),
                    mask=start + jnp.arange(batch_size) < used,
                ),
            )

        return jax.lax.fori_loop(0, batches, batch, carry)

    return jax.lax.fori_loop(0, epochs, epoch, carry)


def epoch_order(
    key: jax.Array, epoch: jax.Array | int, samples: Samples, batch_size: int
) -> jax.Array:
    """The order in which ``for_each_batch`` goes through a round's samples in one epoch.

    Args:
      key: the client's key for this round.
      epoch: 0, 1, …
      samples: the round's.
      batch_size: samples a batch.

    Returns:
      [N] int32, the valid samples first.
    """
    total = samples.valid.shape[0]
    if total <= batch_size:  # in one batch their order is nothing
        return jnp.arange(total, dtype=jnp.int32)
    return _shuffle(fold_in(key, 1 + epoch), samples.valid)


def _shuffle(key, valid):
    """A random order of the samples, of which the valid ones come first and stay so. [N] int32.

    Samples are sorted by 16 random bits each; ties (one pair in 65,536) keep index order, so what
    is not valid goes to the end by having the largest. One sort of packed integers (random bits,
    index) costs half of a sort of pairs, which is for lists whose indices do not fit. Both give the
    same order, whatever N is.
    """
    total = valid.shape[0]
    words = _random_words(key, -(-total // 4), 2)
    random = jnp.stack([words >> 16, words & 0xFFFF], axis=-1).reshape(-1)[:total]
    rank = jnp.where(valid, random, jnp.uint32(0xFFFF))
    index = jnp.arange(total, dtype=jnp.uint32)
    if total <= 1 << _PACKED_INDEX_BITS:
        packed = jnp.sort((rank << _PACKED_INDEX_BITS) | index)
        return (packed & ((1 << _PACKED_INDEX_BITS) - 1)).astype(jnp.int32)
    return jax.lax.sort((rank, index), num_keys=1)[1].astype(jnp.int32)


def _random_words(key, rows, columns):
    """[rows, columns] uniform uint32. Row i depends on the key and i alone, however many rows.

    Both words of every Threefry block are used; ``jax.random.bits`` discards one of them to make
    its words independent of the shape, and random bits are a quarter of a small client's round.
    """
    blocks = -(-columns // 2)
    count = jnp.arange(rows * blocks, dtype=jnp.uint32).reshape(rows, blocks)
    words = jnp.stack(random_blocks(key, count, jnp.uint32(0)), axis=-1)
    return words.reshape(rows, 2 * blocks)[:, :columns]


def _multiply_high(a, b):
    """floor(a·b / 2³²) for uint32, by 16-bit halves: a uniform integer below b from 32 bits."""
    mask = jnp.uint32(0xFFFF)
    a_high, a_low, b_high, b_low = a >> 16, a & mask, b >> 16, b & mask
    middle = a_high * b_low + ((a_low * b_low) >> 16)
    other = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> 16) + (other >> 16)
