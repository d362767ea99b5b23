"""A client's thresholded similarity matrix as its upload, formed and summed tile by tile.

The matrix of a large catalogue does not fit a client, let alone many of them side by side. So what
is passed on inside the simulator is what the matrix is made from: the directions of the client's
item embeddings. The reduction forms the matrix a tile at a time, does to it what the uplink does
(threshold, noise, quantization), counts what would travel, and adds it to the server's sum.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import dot
from fedjax_rec.losses.structural import normalize
from fedjax_rec.tiles import grid
from fedjax_rec.uplink.quantize import MAX_BITS
from fedjax_rec.uplink.transform import Transform

__all__ = ["Similarities", "SimilaritySum", "SimilarityUplink"]

# Noise beyond this many scales (one entry in 400) is cut off where values are quantized.
_NOISE_SCALES = 6
_MOST_ITEMS = 65_536  # whose pairs an int32 can count
_BATCH_BYTES = 64 << 20  # of the tiles of clients that are formed side by side: 40 of them or more


class Similarities(NamedTuple):
    """A client's similarity matrix M_u before it is formed.

    Attributes:
      unit: [m, d] float32, rows z of length one; M_u = zzᵀ off the diagonal.
      key: [2] uint32, data of the key that its noise is drawn from.
    """

    unit: jax.Array
    key: jax.Array


class SimilaritySum(NamedTuple):
    """Running Σ w_k·M_k, packed [tiles, t, t] float32 (``fedjax_rec.tiles``), and Σ w_k, []."""

    total: jax.Array
    weight: jax.Array


class SimilarityUplink(NamedTuple):
    """What a client does to its similarity matrix before it leaves.

    M_u[j, k] = cos(E_j, E_k) for j ≠ k; entries below the threshold are dropped; to each entry
    that is left Laplace(0, δ) noise is added, one draw a pair; values are then rounded to one of
    2ᵇ levels, evenly spaced from σ − 6δ to 1 + 6δ (values beyond are cut off), which both sides
    know: unlike ``quantize_rows`` no scales travel.

    The noise gives no ε: which pairs reach the threshold is not hidden.

    Attributes:
      threshold: σ, above 0 and at most 1.
      center: subtract the mean embedding before taking cosines.
      laplace: δ; None or 0: no noise.
      bits: b, from 1 to 16; None: float32.
    """

    threshold: float
    center: bool = False
    laplace: float | None = None
    bits: int | None = None

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold={self.threshold} must be above 0 and at most 1")
        if not 0 <= (self.laplace or 0) < float("inf"):
            raise InputError(f"laplace={self.laplace} must be 0 or a positive number")
        if self.bits is not None and self.bits not in range(1, MAX_BITS + 1):
            raise InputError(f"bits={self.bits} must be a whole number from 1 to {MAX_BITS}")

    def transform(self) -> Transform:
        """[m, d] embeddings -> ``Similarities``. What they weigh is known once they are formed."""

        def apply(key: jax.Array, items: jax.Array) -> Similarities:
            if self.center:
                items = items - jnp.mean(items, axis=0)
            return Similarities(normalize(items)[0], jax.random.key_data(key))

        return Transform(apply, wire=lambda formats: formats)

    def add(
        self,
        acc: SimilaritySum | None,
        uploads: Similarities,
        weights: jax.Array,
        *,
        together: int | None = None,
    ) -> tuple[SimilaritySum, jax.Array]:
        """Adds a group's matrices to a running weighted sum: the reduction of a method.

        Args:
          acc: sums so far; None at first.
          uploads: of n clients, leading axis n.
          weights: [n] float32; a client of weight 0 adds nothing.
          together: clients whose tiles are formed side by side. None: as many as 64 MB hold, since
            a tile alone does not fill an accelerator; one on a CPU, where batched products of this
            size were measured to take ten times as long.

        Returns:
          The sums, and [n] int32, how many pairs of items each client sent.

        Raises:
          InputError: more than 65,536 items, whose pairs an int32 cannot count.
        """
        clients, items, _ = uploads.unit.shape
        if items > _MOST_ITEMS:
            raise InputError(
                f"similarity matrices of {items} items: at most {_MOST_ITEMS} can be counted"
            )
        cut = grid(items)
        if acc is None:
            acc = SimilaritySum(jnp.zeros(cut.shape), jnp.float32(0))
        arguments = acc.total, jax.vmap(cut.split)(uploads.unit), uploads.key, weights
        if together is not None:
            total, counts = self._add_tiles(cut, min(together, clients), *arguments)
        else:
            many = max(1, min(clients, _BATCH_BYTES // (4 * cut.side**2)))
            total, counts = jax.lax.platform_dependent(
                *arguments,
                cpu=partial(self._add_tiles, cut, 1),
                default=partial(self._add_tiles, cut, many),
            )
        return SimilaritySum(total, acc.weight + jnp.sum(weights)), counts

    def _add_tiles(self, cut, together, total, groups, keys, weights):
        """The sum of all tiles, [tiles, t, t], and how many pairs each client sent, [n]."""
        clients = len(weights)
        batches = -(-clients // together)
        places = jnp.array(cut.places)

        def tile(index, carry):
            total, counts = carry
            i, j = places[index]

            def batch(number, carry):
                added, counts = carry
                # A last batch that reaches back finds some whose matrices are in the sum already.
                own = jnp.minimum(number * together, clients - together) + jnp.arange(together)
                fresh = own >= number * together
                form = partial(self._form, cut, index, i, j)
                values, pairs = jax.vmap(form)(groups[own, i], groups[own, j], keys[own])
                own_weights = jnp.where(fresh, weights[own], 0)
                added += jnp.sum(own_weights[:, None, None] * values, axis=0)
                return added, counts.at[own].add(jnp.where(fresh, pairs, 0))

            added, counts = jax.lax.fori_loop(0, batches, batch, (total[index], counts))
            return total.at[index].set(added), counts

        counts = jnp.zeros(clients, jnp.int32)
        return jax.lax.fori_loop(0, len(places), tile, (total, counts))

    def _form(self, cut, index, i, j, rows, columns, key):
        """One client's tile [t, t] as the server receives it, and how many pairs are in it.

        ``index`` is the tile's number, (i, j) its place; rows and columns [t, d] are its items'.
        """
        similarity = dot(rows, columns.T)
        kept = cut.pairs(i, j) & (similarity >= self.threshold)
        values = self._disturb(similarity, key, index, i == j)
        pairs = cut.count_pairs(jnp.sum(kept, dtype=jnp.int32), i, j)
        return jnp.where(kept, values, 0.0), pairs

    def _disturb(self, values, key, index, diagonal):
        """Noise, then quantization, of one tile; the same for both halves of a diagonal tile."""
        noise = self.laplace or 0.0
        if noise:
            own = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), index)
            drawn = noise * jax.random.laplace(own, values.shape)
            upper = jnp.triu(drawn, k=1)
            values = values + jnp.where(diagonal, upper + upper.T, drawn)
        if self.bits is not None:
            low = self.threshold - _NOISE_SCALES * noise
            span = max(1 + _NOISE_SCALES * noise - low, 1e-6)  # σ = 1: there is one value
            steps = 2**self.bits - 1
            level = jnp.round((jnp.clip(values, low, low + span) - low) / span * steps)
            values = low + level / steps * span
        return values
