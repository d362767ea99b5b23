"""Labels of items as all that a client knows of them: what they say, and how it scores by them.

Two kinds, behind one set of functions. `codes`: d labels an item, each one of 2^b levels of a
coordinate. `clusters`: one label an item for each of several granularities. Both have one label
more, the item's level of popularity. A client turns the labels of its positives into its profile,
the profile into scores of all items, and the labels into coordinates that all clients agree upon
without sending them.

Clients upload tables of d + 1 columns. The last belongs to a coordinate that is 1 for all of them:
its mean is an item's balance of positives and negatives, and so its popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.server import kmeans, principal_coordinates, quantize_columns

__all__ = ["Clusters", "Codes", "LabelKind", "clusters", "codes"]

# Added to a profile's sums before their logarithm: where an item shares no label with a positive.
_FLOOR = 1e-3


class Codes(NamedTuple):
    """d labels an item: its levels in d coordinates; and one of popularity.

    Attributes:
      levels: [m, d] int32, from 0 to 2^b − 1.
      scale: [d] float32, the largest magnitude of each coordinate.
      popularity: [m] int32, from 0 to 2^b − 1: log(1 + count) in equal steps up to the largest.
    """

    levels: jax.Array
    scale: jax.Array
    popularity: jax.Array


class Clusters(NamedTuple):
    """A label an item for each of G granularities; and one of popularity.

    Attributes:
      labels: [m, G] int32.
      popularity: as of ``Codes``.
    """

    labels: jax.Array
    popularity: jax.Array


class LabelKind(NamedTuple):
    """What a method needs of labels of one kind; P positives, U user slots of a client.

    Attributes:
      empty: m -> the labels of a server that has none yet.
      make: (host) ([m, w] mean update, its balance [m] a client, clients, seed) -> labels.
      coordinates: (labels, key that all know) -> [m, d] float32; the same on all clients.
      profile: (labels, items [P], users [P], present [P], U) -> [U, F] float32.
      scores: (labels, profile [U, F], users [n] or [], items [n] or None for all) -> [n] float32.
      wire: labels -> their formats.
    """

    empty: Callable[[int], Any]
    make: Callable[[np.ndarray, np.ndarray, float, int], Any]
    coordinates: Callable[[Any, jax.Array], jax.Array]
    profile: Callable[..., jax.Array]
    scores: Callable[..., jax.Array]
    wire: Callable[[Any], Any]


def codes(dim: int, bits: int, popularity_weight: float) -> LabelKind:
    """Levels of the update's principal coordinates.

    A client's profile is the sum of its positives' coordinates z. Its score of item i is their
    product with z_i, the projection of its history on the coordinates, plus a times the item's
    level of popularity (0 … 1).

    Args:
      dim: d, coordinates.
      bits: b, of one level.
      popularity_weight: a.
    """
    count = 2**bits

    def empty(items: int) -> Codes:
        none = jnp.zeros(items, jnp.int32)
        return Codes(jnp.zeros((items, dim), jnp.int32), jnp.zeros(dim), none)

    def make(update: np.ndarray, balance: np.ndarray, participants: float, seed: int) -> Codes:
        levels, scale = quantize_columns(principal_coordinates(update, dim), bits)
        popularity = _popularity(balance, participants, bits)
        return Codes(jnp.asarray(levels), jnp.asarray(scale), jnp.asarray(popularity))

    def decode(labels: Codes) -> jax.Array:
        compressed = (labels.levels + 0.5) / count * 2 - 1
        return jnp.sign(compressed) * compressed**2 * labels.scale

    def profile(labels: Codes, items: Any, users: Any, present: Any, slots: int) -> jax.Array:
        rows = decode(labels)[items] * present[:, None]
        return jnp.zeros((slots, dim)).at[users].add(rows)

    def scores(labels: Codes, profile: jax.Array, users: Any, items: Any = None) -> jax.Array:
        z, level = decode(labels), labels.popularity / (count - 1)
        if items is None:
            return z @ profile[users] + popularity_weight * level
        return jnp.sum(z[items] * profile[users], axis=-1) + popularity_weight * level[items]

    def wire(labels: Codes) -> Any:
        levels = uplink.labels(labels.levels.size, count)
        return levels, uplink.dense(labels.scale), uplink.labels(len(labels.levels), count)

    return LabelKind(
        empty=empty,
        make=make,
        coordinates=lambda labels, key: decode(labels),
        profile=profile,
        scores=scores,
        wire=wire,
    )


def clusters(
    granularities: Sequence[int], dim: int, bits: int, popularity_weight: float
) -> LabelKind:
    """k-means labels of several granularities.

    A client scores item i by log Σ_g n_g(i)/√size_g(i), with n_g(i) how many of its positives share
    i's label and size_g(i) how many items do, plus a times the item's level of popularity (0 … 1).
    The coordinates are the sum of a random vector a label (from a key that all know), over √size.

    Args:
      granularities: C of each k-means, at most m.
      dim: d, the coordinates' width.
      bits: b, of a level of popularity.
      popularity_weight: a.
    """
    starts = np.cumsum([0, *granularities])[:-1].astype(np.int32)
    total = int(sum(granularities))
    count = 2**bits

    def empty(items: int) -> Clusters:
        labels = jnp.zeros((items, len(granularities)), jnp.int32)
        return Clusters(labels, jnp.zeros(items, jnp.int32))

    def make(update: np.ndarray, balance: np.ndarray, participants: float, seed: int) -> Clusters:
        vectors = principal_coordinates(update, dim)
        labels = [kmeans(vectors, clusters, seed=seed) for clusters in granularities]
        popularity = _popularity(balance, participants, bits)
        return Clusters(jnp.asarray(np.stack(labels, axis=1)), jnp.asarray(popularity))

    def shares(labels: Clusters) -> jax.Array:
        """[ΣC] 1/√size of every label of every granularity."""
        sizes = jnp.zeros(total).at[(labels.labels + starts).reshape(-1)].add(1.0)
        return 1 / jnp.sqrt(jnp.maximum(sizes, 1))

    def coordinates(labels: Clusters, key: jax.Array) -> jax.Array:
        vectors = jax.random.normal(key, (total, dim)) * shares(labels)[:, None]
        return vectors[labels.labels + starts].sum(axis=1)

    def profile(labels: Clusters, items: Any, users: Any, present: Any, slots: int) -> jax.Array:
        named = labels.labels[items] + starts  # [P, G]
        counts = jnp.zeros((slots, total)).at[users[:, None], named].add(present[:, None])
        return counts * shares(labels)

    def scores(labels: Clusters, profile: jax.Array, users: Any, items: Any = None) -> jax.Array:
        named, level = labels.labels + starts, labels.popularity / (count - 1)
        if items is not None:
            named, level = named[items], level[items]
        shared = profile[jnp.asarray(users)[..., None], named].sum(axis=-1)
        return jnp.log(shared + _FLOOR) + popularity_weight * level

    def wire(labels: Clusters) -> Any:
        items = len(labels.labels)
        each = [uplink.labels(items, clusters) for clusters in granularities]
        return each, uplink.labels(items, count)

    return LabelKind(
        empty=empty,
        make=make,
        coordinates=coordinates,
        profile=profile,
        scores=scores,
        wire=wire,
    )


def _popularity(balance: np.ndarray, participants: float, bits: int) -> np.ndarray:
    """[m] int32 levels: log(1 + count) in equal steps.

    A positive moves the balance by ½ over the number of clients. What the negatives take away is
    alike for all items but for chance, so the rarest item stands for a count of 0.
    """
    counts = np.log1p(2 * participants * (balance - balance.min()))
    levels = np.round(counts / max(counts.max(), 1e-9) * (2**bits - 1))
    return levels.astype(np.int32)
