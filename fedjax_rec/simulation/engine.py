"""The round loop's body: one round of all clients, and their evaluation."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.methods import EvaluateAt, Method
from fedjax_rec.seeding import Purpose, host_rng
from fedjax_rec.simulation import clients, programs
from fedjax_rec.simulation.layout import Bucket, lay_out
from fedjax_rec.simulation.ledger import RoundBytes, round_bytes
from fedjax_rec.simulation.rows import Rows

__all__ = ["Engine", "Outcome", "Seconds", "State", "cohort_size"]


class State(NamedTuple):
    """Everything that a round changes.

    Attributes:
      server: the method's server state.
      clients: all clients' states as one pytree, leading axis [devices · rows] in layout order.
    """

    server: Any
    clients: Any


class Seconds(NamedTuple):
    """Wall time of one round by where it went; they add up to the round's wall time."""

    compile: float = 0.0
    device: float = 0.0
    host: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other):
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def total(self) -> float:
        return sum(self)


class Outcome(NamedTuple):
    """What a round was like.

    Attributes:
      train_loss: mean over participants.
      participants: number of clients that took part.
      bytes: what they sent and received.
      ranks: by user, {"validation_sampled": [users, V], …}, or None when not evaluated.
      seconds: where the wall time went.
    """

    train_loss: float
    participants: int
    bytes: RoundBytes
    ranks: dict[str, np.ndarray] | None
    seconds: Seconds


class Engine:
    """Runs rounds of one method on one problem.

    Args:
      method: the method.
      problem: the prepared federation.
      mesh: devices that the client axis is sharded over.
      seed: the run's seed.
      cohort: clients that take part in a round, as a fraction (float) or a number (int).
      chunk: clients trained side by side on a device: "auto" or a number. Bounds memory; changes
        results only by the order of float additions.
      evaluate_at: "download": what a user would be served at the start of the next round.
        "trained": right after local training (clients outside the cohort: after this round's
        download).
      debug: run client by client without jit, so that errors name their place; one device.
    """

    def __init__(
        self,
        method: Method,
        problem: Problem,
        mesh: Mesh,
        *,
        seed: int = 0,
        cohort: float | int = 1.0,
        chunk: int | Literal["auto"] = "auto",
        evaluate_at: EvaluateAt = "download",
        debug: bool = False,
    ) -> None:
        if chunk != "auto" and chunk < 1:
            raise InputError(f"chunk={chunk} must be 'auto' or at least 1")
        if debug and mesh.size > 1:
            raise InputError("debug runs client by client on one device: use devices=1 with it")
        self.method = method
        self.problem = problem
        self.mesh = mesh
        self.seed = seed
        self.cohort = cohort_size(cohort, problem.num_clients)
        self.evaluate_at = evaluate_at
        self.debug = debug
        self.layout = lay_out(problem, int(mesh.size))
        self._key = jax.random.key(seed, impl="threefry2x32")
        self._batched = NamedSharding(mesh, PartitionSpec(clients.AXIS))
        self._shared = NamedSharding(mesh, PartitionSpec())
        self._buckets = [self._upload_bucket(b) for b in self.layout.buckets]
        rows = [bucket.rows for bucket in self.layout.buckets]
        self._programs = programs.Programs(method, mesh, rows, chunk=chunk, debug=debug)
        self._rows = Rows(problem, self.layout, self._batched)
        self._upload: Any = None  # shapes of one client's upload
        self._accumulator: Any = None  # shapes of one device's accumulator
        self._sent: Any = None  # shapes of what the reduction counts of one upload

    def initial_state(self) -> State:
        """The state before the first round.

        Raises:
          InputError: where the method's options do not fit the problem.
        """
        key = jax.random.fold_in(self._key, 0)
        server_key = jax.random.fold_in(key, int(Purpose.INIT_SERVER))
        server = self._replicate(self.method.init(server_key, self.problem))
        # Rows that no client uses get a client's state like all others, and are never trained.
        ids = self._shard(np.maximum(self.layout.client_of_row, 0))
        users = int(self.problem.users_per_client.max())
        everyone = clients.init_clients(self.method, self.mesh, key, server, ids, users)
        state = State(server, everyone)
        self._measure_upload(state, self.method.broadcast(server))
        return state

    def run_round(
        self, state: State, round_: int, *, evaluate: bool = False
    ) -> tuple[State, Outcome]:
        """Runs one round.

        Args:
          state: donated: unusable afterwards, also when the round raises.
          round_: 1, 2, …
          evaluate: whether to rank every user's held-out items.

        Raises:
          TrainingError: a loss, a state or an upload that is not finite, with round and client.
        """
        watch = _Watch()
        part = self._draw_cohort(round_)
        round_key = jax.random.fold_in(self._key, round_)
        broadcast = self._replicate(self.method.broadcast(state.server))
        trained = evaluate and self.evaluate_at == "trained"
        with watch("compile"):
            self._prepare(state, broadcast, round_key, train=trained)

        # Clients outside the cohort are scored on what they download now, before anyone trains.
        bystanders = None
        if trained and len(part) < self.problem.num_clients:
            bystanders = self._rank(state, broadcast, round_key, watch)

        with watch("device"):
            acc, everyone, reports = self._zero_accumulator(), state.clients, []
            for index, bucket in enumerate(self._buckets):
                train = self._programs[programs.train(index, trained)]
                rest = (self._zero_sent(index), *bucket, *self._order(index, part))
                acc, everyone, report = train(acc, everyone, *rest, broadcast, round_key)
                reports.append(report)
            by_client = self._rows.by_client
            losses = by_client([r.loss for r in reports])[part]
            healthy = by_client([r.healthy for r in reports])[part]
            sent = jax.tree.map(lambda *x: by_client(x)[part], *[r.sent for r in reports])
            key = jax.random.fold_in(round_key, int(Purpose.SERVER_STEP))
            server, finite = self._programs[programs.SERVER](key, state.server, acc)
            jax.block_until_ready((server, everyone))
        if not (healthy.all() and finite):
            who = "an upload" if healthy.all() else f"client {part[~healthy][0]}"
            raise TrainingError(
                f"training diverged in round {round_}: {who} has values that are not finite; "
                "lower --lr or --item-lr-scale (checkpoints so far are kept)"
            )
        with watch("host"):
            rng = host_rng(self.seed, round_, Purpose.BETWEEN_ROUNDS)
            server = self._replicate(self.method.between_rounds(rng, round_, server))
            bytes_ = round_bytes(self.method, broadcast, self._upload, sent, clients=len(part))
        state = State(server, everyone)

        ranks = None
        if trained:
            with watch("evaluation"):
                ranks = self._rows.by_user([r.ranks for r in reports])
            if bystanders is not None:
                ranks = self._rows.merge(bystanders, ranks, part)
        elif evaluate:
            ranks = self.evaluate(state, round_, watch)
        return state, Outcome(float(losses.mean()), len(part), bytes_, ranks, watch.seconds())

    def evaluate(
        self, state: State, round_: int, watch: _Watch | None = None
    ) -> dict[str, np.ndarray]:
        """Ranks of all users at download after round ``round_`` (0: before training).

        Returns:
          The fields of ``Ranks`` by name, [users, …], -1 for padding: zero-based ranks (V and T
          held-out items a user) and, under the ratio split instead of the sampled ranks, each
          user's best items.
        """
        round_key = jax.random.fold_in(self._key, round_ + 1)
        broadcast = self._replicate(self.method.broadcast(state.server))
        return self._rank(state, broadcast, round_key, watch or _Watch())

    def epsilon(self, rounds: int) -> float | None:
        """ε of a client that takes part in ``rounds`` rounds; None where the uplink gives none."""
        return self.method.epsilon(self._upload, rounds)

    def client_states(self, state: State) -> Any:
        """All clients' states as NumPy arrays [num_clients, …], in order of client id."""
        return jax.tree.map(self._rows.gather, state.clients)

    def restore(self, server: Any, client_states: Any) -> State:
        """The state that has the given server state and ``client_states`` (by client id)."""
        of_row = np.maximum(self.layout.client_of_row, 0)
        everyone = jax.tree.map(lambda x: self._shard(np.asarray(x)[of_row]), client_states)
        return State(self._replicate(server), everyone)

    # Programs -------------------------------------------------------------------------------

    def _prepare(self, state, broadcast, round_key, *, train=None, rank=False):
        """Compiles what is asked for. ``train``: whether training evaluates; None: no training."""
        self._measure_upload(state, broadcast)
        indices = range(len(self._buckets))
        wanted: list[programs.Name] = []
        if train is not None:
            wanted += [programs.SERVER, *(programs.train(i, train) for i in indices)]
        if rank:
            wanted += [programs.evaluate(i) for i in indices]

        def arguments(name):
            if name == programs.SERVER:
                return round_key, state.server, self._zero_accumulator()
            kind, index = name[:2]
            order = self._order(index, np.arange(self.problem.num_clients))
            rest = (*self._buckets[index], *order, broadcast, round_key)
            if kind == "train":
                return self._zero_accumulator(), state.clients, self._zero_sent(index), *rest
            return state.clients, *rest

        self._programs.prepare(wanted, arguments)

    def _measure_upload(self, state, broadcast):
        """Shapes of one client's upload and of what the reduction makes of it; nothing runs."""
        if self._upload is not None:
            return
        first = jax.tree.map(lambda x: _shape(x, x.shape[1:]), (state.clients, self._buckets[0]))
        one, bucket = first
        self._upload, received = clients.upload_shape(self.method, one, broadcast, bucket.data)
        group = jax.tree.map(lambda x: _shape(x, (1, *x.shape)), received)
        weights = jax.ShapeDtypeStruct((1,), jnp.float32)
        empty = self.method.accumulator

        def add(server, uploads, weights):
            return self.method.reduce(None if empty is None else empty(server), uploads, weights)

        self._accumulator, sent = jax.eval_shape(add, state.server, group, weights)
        self._sent = jax.tree.map(lambda x: _shape(x, x.shape[1:]), sent)

    def _zero_accumulator(self):
        devices = self.layout.devices
        return jax.tree.map(
            lambda x: self._shard(np.zeros((devices, *x.shape), x.dtype)), self._accumulator
        )

    def _zero_sent(self, index):
        """Zeros by row of a bucket, where the reduction's counts go."""
        rows = self.layout.devices * self.layout.buckets[index].rows
        return jax.tree.map(lambda x: self._shard(np.zeros((rows, *x.shape), x.dtype)), self._sent)

    def _rank(self, state, broadcast, round_key, watch):
        """Ranks by user at download of ``broadcast``."""
        with watch("compile"):
            self._prepare(state, broadcast, round_key, rank=True)
        with watch("evaluation"):
            everyone = np.arange(self.problem.num_clients)
            ranks = []
            for index, bucket in enumerate(self._buckets):
                rank = self._programs[programs.evaluate(index)]
                order = self._order(index, everyone)
                ranks.append(rank(state.clients, *bucket, *order, broadcast, round_key))
            return self._rows.by_user(ranks)

    def _draw_cohort(self, round_):
        """Ascending ids of the round's participants."""
        count = self.problem.num_clients
        if self.cohort == count:
            return np.arange(count)
        rng = host_rng(self.seed, round_, Purpose.COHORT)
        return np.sort(rng.choice(count, self.cohort, replace=False))

    def _order(self, index, part):
        return self._rows.order(index, part, self._programs.width(index))

    # Placement --------------------------------------------------------------------------------

    def _shard(self, x):
        return jax.device_put(x, self._batched)

    def _replicate(self, tree):
        return jax.device_put(tree, self._shared)

    def _upload_bucket(self, bucket: Bucket) -> _Placed:
        def place(x):
            return self._shard(x.reshape(-1, *x.shape[2:]))

        return _Placed(
            self._replicate(np.int32(bucket.start)),
            jax.tree.map(place, bucket.data),
            jax.tree.map(place, bucket.held_out),
        )


class _Placed(NamedTuple):
    """A bucket on the devices: the arguments that every program of the bucket takes."""

    start: Any
    data: Any
    held_out: Any


class _Watch:
    """Adds up wall time by where it goes."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(Seconds._fields, 0.0)

    @contextmanager
    def __call__(self, what: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] += time.perf_counter() - start

    def seconds(self) -> Seconds:
        return Seconds(**self._spent)


def cohort_size(cohort: float | int, num_clients: int) -> int:
    """Number of clients a round, from a fraction (float) or a number (int).

    Raises:
      InputError: a cohort of nobody, or of more clients than there are.
    """
    if isinstance(cohort, float):
        if not 0 < cohort <= 1:
            raise InputError(f"cohort={cohort} as a fraction must be above 0 and at most 1")
        size = round(cohort * num_clients)
        if size < 1:
            raise InputError(
                f"cohort={cohort} of {num_clients} clients is an empty cohort: "
                f"use at least {1 / num_clients:.2g}, or a whole number of clients"
            )
        return size
    if not 1 <= cohort <= num_clients:
        raise InputError(
            f"cohort={cohort} must be from 1 to the number of clients, {num_clients} "
            "(a fraction has a decimal point, such as 0.1 or 1.0)"
        )
    return cohort


def _shape(x, shape):
    return jax.ShapeDtypeStruct(shape, x.dtype)
