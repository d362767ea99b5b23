"""What one client trains on, and how it turns that into shuffled, masked batches on the device.

Positives are stored once; negatives are drawn anew every round and the samples are shuffled anew
every epoch, all inside the compiled program, so nothing of it crosses from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["Batch", "ClientData", "Samples", "draw_samples", "for_each_batch", "sample_negatives"]

Carry = TypeVar("Carry")


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

    Arrays of NumPy while they are laid out on the host, of JAX from then on.
    """

    client: Any
    positives: Any
    items: Any
    users: Any
    forbidden: Any
    forbidden_starts: Any
    longest: Any

    @property
    def num_users(self) -> int:
        """U, the number of user slots (1: every client is one user)."""
        return self.forbidden_starts.shape[-1] - 1


class Samples(NamedTuple):
    """A round's samples of one client before shuffling: positives first, then negatives.

    ``items`` and ``users`` are [N] int32, ``valid`` is [N] bool; the first P are the positives.
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

    Args:
      key: PRNG key.
      data: one client.
      num_items: m.
      negatives: draws a positive.

    Returns:
      [negatives, P] int32. Draws for padded positives are valid items too; mask them.
    """
    starts = data.forbidden_starts[data.users]
    stops = data.forbidden_starts[data.users + 1]
    allowed = (num_items - (stops - starts)).astype(jnp.uint32)
    bits = jax.random.bits(key, (negatives, *data.users.shape), jnp.uint32)
    rank = _multiply_high(bits, allowed[None, :]).astype(jnp.int32)

    low = jnp.broadcast_to(starts, rank.shape)
    high = jnp.broadcast_to(stops, rank.shape)
    for _ in range(data.forbidden.shape[-1].bit_length()):
        middle = (low + high) // 2
        found = (low < high) & (data.forbidden[middle] <= rank)
        low = jnp.where(found, middle + 1, low)
        high = jnp.where(found, high, middle)
    return rank + low - starts


def draw_samples(key: jax.Array, data: ClientData, num_items: int, negatives: int) -> Samples:
    """A round's samples: the positives and ``negatives`` fresh negatives for each."""
    drawn = sample_negatives(key, data, num_items, negatives)
    valid = jnp.arange(data.items.shape[0]) < data.positives
    return Samples(
        items=jnp.concatenate([data.items, drawn.reshape(-1)]),
        users=jnp.tile(data.users, 1 + negatives),
        valid=jnp.tile(valid, 1 + negatives),
    )


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
) -> Carry:
    """Runs ``step`` over every batch of every epoch of a client's round.

    Negatives are drawn once for the round (as the releases of this family do), the order anew for
    every epoch. The last batch of an epoch is short; a client with fewer batches than the longest
    of its group sees batches whose mask is all false, which must change nothing.

    Args:
      key: the client's key for this round.
      data: one client.
      step: (carry, batch) -> carry.
      carry: what the steps pass on.
      num_items: m.
      negatives: negatives a positive.
      batch_size: B.
      epochs: local epochs.
    """
    samples = draw_samples(jax.random.fold_in(key, 0), data, num_items, negatives)
    total = samples.items.shape[0]
    slots = data.items.shape[0]
    padding = -total % batch_size
    used = data.positives * (1 + negatives)
    batches = (data.longest * (1 + negatives) + batch_size - 1) // batch_size

    def epoch(index, carry):
        order = _shuffle(jax.random.fold_in(key, 1 + index), samples.valid)
        order = jnp.pad(order, (0, padding))
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
                    labels=(part(order) < slots).astype(jnp.float32),
                    mask=start + jnp.arange(batch_size) < used,
                ),
            )

        return jax.lax.fori_loop(0, batches, batch, carry)

    return jax.lax.fori_loop(0, epochs, epoch, carry)


def _shuffle(key, valid):
    """A random order of the samples, the valid ones first. [N] int32.

    One sort of packed integers (invalid bit, random bits, index) costs half of a sort of pairs.
    Ties between the random bits keep index order; with at least 16 random bits that is one pair
    in 65,536, and longer lists take the sort of pairs with all 32 bits.
    """
    total = valid.shape[0]
    index_bits = max(1, (total - 1).bit_length())
    bits = jax.random.bits(key, (total,), jnp.uint32)
    index = jnp.arange(total, dtype=jnp.uint32)
    if index_bits <= 15:
        packed = (~valid).astype(jnp.uint32) << 31
        packed |= (bits >> (1 + index_bits)) << index_bits
        packed |= index
        return (jnp.sort(packed) & ((1 << index_bits) - 1)).astype(jnp.int32)
    rank = jnp.where(valid, bits >> 1, jnp.uint32(0xFFFFFFFF))
    return jax.lax.sort((rank, index), num_keys=1)[1].astype(jnp.int32)


def _multiply_high(a, b):
    """floor(a·b / 2³²) for uint32, by 16-bit halves: a uniform integer below b from 32 bits."""
    mask = jnp.uint32(0xFFFF)
    a_high, a_low, b_high, b_low = a >> 16, a & mask, b >> 16, b & mask
    middle = a_high * b_low + ((a_low * b_low) >> 16)
    other = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> 16) + (other >> 16)
