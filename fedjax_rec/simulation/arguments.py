"""What the programs of a round are called with, placed on the devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.methods import Broadcast, Method, Uploads
from fedjax_rec.simulation import clients, distribution
from fedjax_rec.simulation.layout import Bucket, Layout

__all__ = ["Arguments"]

PyTree = Any


class Arguments:
    """Assembles the arguments of the programs of `clients` and of the server's step.

    A program is compiled for the shapes of its first call, so all that is decided here (zeros,
    padding, placement) is the same in every round.

    Args:
      method: the method.
      layout: where every client lives.
      sharding: of the client axis.
      everywhere: of what every device has whole.
      one: shapes of one client's state as it is kept.
      server: a server state of the method, by client id.

    Attributes:
      upload: shapes of one client's upload, before the uplink transforms.
      kept: shapes of all uploads that are kept, [R, …]; None where none is.
    """

    def __init__(
        self,
        method: Method,
        layout: Layout,
        sharding: jax.sharding.Sharding,
        everywhere: jax.sharding.Sharding,
        one: PyTree,
        server: PyTree,
    ) -> None:
        self._layout = layout
        self._sharding = sharding
        self._everywhere = everywhere
        self._buckets = [self._place(bucket) for bucket in layout.buckets]
        broadcast = method.broadcast(server)
        data = jax.tree.map(lambda x: _shape(x, x.shape[1:]), self._buckets[0].data)
        self.upload, received = clients.upload_shape(method, one, broadcast, data)
        accumulator, sent = _reduced(method, server, received)
        devices = layout.devices
        self._zero_accumulator = self._zeros(accumulator, devices)
        self._zero_sent = [self._zeros(sent, devices * b.rows)() for b in layout.buckets]
        self._places: dict[tuple[int, int], clients.Places] = {}
        self.kept = None
        if method.keep_uploads:
            rows = len(layout.client_of_row)
            self.kept = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype, sharding=sharding),
                received,
            )
            self._zero_kept = self._zeros(received, rows)

    def train(
        self,
        index: int,
        states: PyTree,
        places: clients.Places,
        order: tuple[jax.Array, jax.Array],
        broadcast: Broadcast,
        round_key: jax.Array,
        *,
        acc: PyTree,
        kept: PyTree,
    ) -> tuple[Any, ...]:
        """For ``clients.train_bucket``.

        Args:
          index: the bucket.
          states: that hold its clients.
          places: where it begins among them.
          order: of its rows, as ``Rows.order``.
          broadcast: what clients download.
          round_key: the round's PRNG key.
          acc: the accumulators so far, [devices, …].
          kept: the uploads so far (or their shapes, for compiling); None where none is kept.
        """
        rest = self.evaluate(index, states, places, order, broadcast, round_key)[1:]
        return acc, states, kept, self._zero_sent[index], *rest

    def evaluate(
        self,
        index: int,
        states: PyTree,
        places: clients.Places,
        order: tuple[jax.Array, jax.Array],
        broadcast: Broadcast,
        round_key: jax.Array,
    ) -> tuple[Any, ...]:
        """For ``clients.evaluate_bucket``: as ``train``."""
        return states, places, *self._buckets[index], *order, broadcast, round_key

    def zero_accumulator(self) -> PyTree:
        """The devices' accumulators before a round, [devices, …]."""
        return self._zero_accumulator()

    def zero_kept(self) -> PyTree:
        """Room for all uploads of a round, [R, …]; None where none is kept."""
        return None if self.kept is None else self._zero_kept()

    def places(self, first: int, index: int) -> clients.Places:
        """Where a bucket begins: row ``first`` of the states at hand, and its place in all rows."""
        key = (first, index)
        if key not in self._places:
            rows = np.int32(first), np.int32(self._layout.buckets[index].start)
            self._places[key] = clients.Places(*distribution.replicate(rows, self._everywhere))
        return self._places[key]

    def uploads(self, kept: PyTree, part: np.ndarray) -> Uploads | None:
        """The kept uploads (or their shapes) as the server gets them; None where none is kept.

        Args:
          kept: [R, …].
          part: [participants] client ids: all others are nobody.
        """
        if kept is None:
            return None
        ids = self._layout.client_of_row
        takes_part = np.zeros(len(self._layout.row_of_client) + 1, bool)  # the last: id -1, nobody
        takes_part[part] = True
        return Uploads(kept, self._shard(np.where(takes_part[ids], ids, -1).astype(np.int32)))

    def _zeros(self, shapes, rows):
        """() -> zeros [rows, …] of these shapes, made where they belong: never on one device, nor
        on the host."""

        def make():
            return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), shapes)

        return jax.jit(make, out_shardings=self._sharding)

    def _place(self, bucket: Bucket) -> _Placed:
        def place(x):
            return self._shard(x.reshape(-1, *x.shape[2:]))

        return _Placed(jax.tree.map(place, bucket.data), jax.tree.map(place, bucket.held_out))

    def _shard(self, x):
        return distribution.shard(x, self._sharding)


class _Placed(NamedTuple):
    """A bucket on the devices: the arguments that every program of the bucket takes."""

    data: Any
    held_out: Any


def _reduced(method, server, received):
    """Shapes of a device's sum of uploads, and of what is counted of one; nothing runs."""
    group = jax.tree.map(lambda x: _shape(x, (1, *x.shape)), received)
    weights = jax.ShapeDtypeStruct((1,), jnp.float32)

    def add(server, uploads, weights):
        empty = None if method.accumulator is None else method.accumulator(server)
        return method.reduce(empty, uploads, weights)

    accumulator, sent = jax.eval_shape(add, server, group, weights)
    return accumulator, jax.tree.map(lambda x: _shape(x, x.shape[1:]), sent)


def _shape(x, shape):
    return jax.ShapeDtypeStruct(shape, x.dtype)
