"""The round loop's body: one round of all clients, and their evaluation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.methods import EvaluateAt, Method
from fedjax_rec.seeding import Purpose, host_rng
from fedjax_rec.simulation import clients, distribution, programs
from fedjax_rec.simulation.arguments import Arguments
from fedjax_rec.simulation.cohort import cohort_size, draw_cohort
from fedjax_rec.simulation.layout import lay_out
from fedjax_rec.simulation.ledger import RoundBytes, round_bytes
from fedjax_rec.simulation.rows import Rows
from fedjax_rec.simulation.seconds import Seconds, Watch
from fedjax_rec.simulation.servers import Servers, own_shapes
from fedjax_rec.simulation.states import (
    DeviceStates,
    HostStates,
    StatePlace,
    choose_place,
    rows_at_once,
)
from fedjax_rec.simulation.storage import StateDtype, stored_as
from fedjax_rec.threefry import fold_in

__all__ = ["Engine", "Outcome", "State"]


class State(NamedTuple):
    """Everything that a round changes.

    Attributes:
      server: the method's server state.
      clients: all clients' states as one pytree: on the devices, leading axis [devices · rows] in
        layout order; on the host or the disk, [num_clients] by client id.
    """

    server: Any
    clients: Any


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
      state: where the clients' states are between rounds: "device", "host" memory, "disk", or
        "auto", the nearest of them with room. On the host or the disk they stream through the
        devices.
      state_dtype: what they are kept in: "float32", "bfloat16" or "int8" (`storage.encode`).
      state_folder: for the disk; required there.

    Raises:
      InputError: options out of range, or a method's options that do not fit the problem.
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
        state: StatePlace | Literal["auto"] = "auto",
        state_dtype: StateDtype = "float32",
        state_folder: Path | None = None,
    ) -> None:
        if chunk != "auto" and chunk < 1:
            raise InputError(f"chunk={chunk} must be 'auto' or at least 1")
        if debug and mesh.size > 1:
            raise InputError("debug runs client by client on one device: use devices=1 with it")
        if state not in ("auto", "device", "host", "disk"):
            raise InputError(f"state={state!r}: use 'auto', 'device', 'host' or 'disk'")
        if method.centralized and cohort != 1:
            raise InputError(
                f"cohort={cohort}: {method.name} is centralized, and its one client takes part in "
                "every round: leave --cohort at 1.0"
            )
        method = stored_as(method, state_dtype)
        self.method = method
        self.problem = problem
        self.mesh = mesh
        self.seed = seed
        self.cohort = cohort_size(cohort, problem.num_clients)
        self.evaluate_at = evaluate_at
        self.debug = debug
        self._key = jax.random.key(seed, impl="threefry2x32")
        self._batched = NamedSharding(mesh, PartitionSpec(clients.AXIS))
        everywhere = NamedSharding(mesh, PartitionSpec())
        # One program, and the key is on all devices at once: the first things of every round.
        self._fold_in = jax.jit(fold_in, out_shardings=everywhere)
        self._first_server: Any = self._init_server()  # by client id; on its way to the devices
        self._one = self._client_shape(self._first_server)
        self.place = (
            choose_place(self._one, problem.num_clients, mesh) if state == "auto" else state
        )
        most_rows = None
        if self.place != "device":
            most_rows = rows_at_once(self._one, mesh, 1 if chunk == "auto" else chunk)
        self.layout = lay_out(problem, int(mesh.size), most_rows=most_rows)
        rows = {bucket.kind: bucket.rows for bucket in self.layout.buckets}
        self._programs = programs.Programs(method, mesh, rows, chunk=chunk, debug=debug)
        self._rows = Rows(problem, self.layout, self._batched)
        self._servers = Servers(mesh, self.layout, self._rows)
        self._states = self._place_states(state_folder)
        # Where a checkpoint's arrays may be unpacked; None: in memory.
        self.scratch_folder = None
        if self.place == "disk" and state_folder is not None:
            self.scratch_folder = state_folder / "restored"
        self._arguments = Arguments(
            method, self.layout, self._batched, everywhere, self._one, self._first_server
        )

    def initial_state(self) -> State:
        """The state before the first round.

        Raises:
          InputError: states on the disk that do not fit there.
        """
        server, self._first_server = self._first_server, None
        server = self._servers.place(self._init_server() if server is None else server)
        key = jax.random.fold_in(self._key, 0)
        users = int(self.problem.users_per_client.max())

        make = clients.init_clients(self.method, self.mesh, key, server, users)
        return State(server, self._states.first(lambda ids: make(self._shard(ids))))

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
        watch = Watch()
        count = self.problem.num_clients
        part = draw_cohort(self.cohort, count, seed=self.seed, round_=round_)
        round_key = self._fold_in(self._key, round_)
        broadcast = self._servers.broadcast(self.method.broadcast(state.server))
        trained = evaluate and self.evaluate_at == "trained"
        with watch("compile"):
            self._prepare(state, broadcast, round_key, train=trained)

        # Clients outside the cohort are scored on what they download now, before anyone trains.
        bystanders = None
        if trained and len(part) < count:
            bystanders = self._rank(state, broadcast, round_key, watch)

        with watch("device"):
            acc, kept = self._arguments.zero_accumulator(), self._arguments.zero_kept()
            everyone, reports = state.clients, []
            for index in range(len(self.layout.buckets)):
                states, places = self._take(everyone, index)
                acc, states, kept, report = self._fitting(
                    programs.train(self._kind(index), trained),
                    partial(self._order, index, part),
                    partial(self._arguments.train, index, states, places, acc=acc, kept=kept),
                    broadcast,
                    round_key,
                )
                everyone = self._states.give(everyone, index, states)
                reports.append(report)
            self._states.settle(everyone)
            by_client = self._rows.by_client
            losses = by_client([r.loss for r in reports])[part]
            healthy = by_client([r.healthy for r in reports])[part]
            sent = jax.tree.map(lambda *x: by_client(x)[part], *[r.sent for r in reports])
            uploads = self._arguments.uploads(kept, part)
            key = self._fold_in(round_key, int(Purpose.SERVER_STEP))
            server, finite = self._programs[programs.SERVER](key, state.server, acc, uploads)
            jax.block_until_ready((server, everyone))
        if not (healthy.all() and finite):
            who = "an upload" if healthy.all() else f"client {part[~healthy][0]}"
            raise TrainingError(
                f"training diverged in round {round_}: {who} has values that are not finite; "
                "lower --lr or --item-lr-scale (checkpoints so far are kept)"
            )
        with watch("host"):
            rng = host_rng(self.seed, round_, Purpose.BETWEEN_ROUNDS)
            work = partial(self.method.between_rounds, rng, round_)
            server = self._servers.host_work(work, server)
            down = own_shapes(broadcast)
            bytes_ = round_bytes(self.method, down, self._arguments.upload, sent, clients=len(part))
        if self.method.server_finish is not None:
            with watch("device"):
                key = self._fold_in(round_key, int(Purpose.SERVER_FINISH))
                server = self._programs[programs.FINISH](key, server, uploads)
                jax.block_until_ready(server)
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
        self, state: State, round_: int, watch: Watch | None = None
    ) -> dict[str, np.ndarray]:
        """Ranks of all users at download after round ``round_`` (0: before training).

        Returns:
          The fields of ``Ranks`` by name, [users, …], -1 for padding: zero-based ranks (V and T
          held-out items a user) and, under the ratio split instead of the sampled ranks, each
          user's best items.
        """
        round_key = self._fold_in(self._key, round_ + 1)
        broadcast = self._servers.broadcast(self.method.broadcast(state.server))
        return self._rank(state, broadcast, round_key, watch or Watch())

    def epsilon(self, rounds: int) -> float | None:
        """ε of a client that takes part in ``rounds`` rounds; None where the uplink gives none."""
        return self.method.epsilon(self._arguments.upload, rounds)

    def server_state(self, state: State) -> Any:
        """The server's state as NumPy arrays; what it has of every client, by client id."""
        return self._servers.fetch(state.server)

    def server_shapes(self, state: State) -> Any:
        """Shapes of what ``server_state`` gives."""
        return self._servers.shapes(state.server)

    def client_states(self, state: State) -> Any:
        """All clients' states as NumPy arrays [num_clients, …], in order of client id.

        They are as they are kept (`storage.decode` makes them whole), and must not be changed.
        """
        return self._states.gather(state.clients)

    def client_shapes(self) -> Any:
        """Shapes of what ``client_states`` gives."""
        count = self.problem.num_clients
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), self._one)

    def restore(self, server: Any, client_states: Any) -> State:
        """The state that has the given ``server_state`` and ``client_states``."""
        return State(self._servers.place(server), self._states.restore(client_states))

    def drop_files(self) -> None:
        """Removes what states on the disk have left there."""
        self._states.drop()

    # Programs -------------------------------------------------------------------------------

    def _prepare(self, state, broadcast, round_key, *, train=None, rank=False):
        """Compiles what is asked for. ``train``: whether training evaluates; None: no training."""
        everyone = np.arange(self.problem.num_clients)
        kinds = dict.fromkeys(bucket.kind for bucket in self.layout.buckets)
        wanted: list[programs.Name] = []
        if train is not None:
            wanted += [programs.SERVER, *(programs.train(kind, train) for kind in kinds)]
            if self.method.server_finish is not None:
                wanted.append(programs.FINISH)
        if rank:
            wanted += [programs.evaluate(kind) for kind in kinds]

        def arguments(name):
            assemble = self._arguments
            if name in (programs.SERVER, programs.FINISH):
                uploads = assemble.uploads(assemble.kept, everyone)
                acc = (assemble.zero_accumulator(),) if name == programs.SERVER else ()
                return round_key, state.server, *acc, uploads
            what, kind = name[:2]
            index = next(i for i, b in enumerate(self.layout.buckets) if b.kind == kind)
            order = self._order(index, everyone)
            of_bucket = (index, *self._take(state.clients, index), order, broadcast, round_key)
            if what == "train":
                acc = assemble.zero_accumulator()
                return assemble.train(*of_bucket, acc=acc, kept=assemble.kept)
            return assemble.evaluate(*of_bucket)

        self._programs.prepare(wanted, arguments)

    def _fitting(self, name, order, assemble, broadcast, round_key):
        """Runs a bucket's program; where a device's memory is too small, fewer clients at a time.

        Args:
          name: of the program.
          order: () -> the order of its rows, which is padded to the program's width.
          assemble: (order, broadcast, round_key) -> the program's arguments.
          broadcast: what clients download.
          round_key: the round's PRNG key.
        """
        while True:
            try:
                return self._programs[name](*assemble(order(), broadcast, round_key))
            except jax.errors.JaxRuntimeError as error:
                if not programs.out_of_memory(error):
                    raise
                self._programs.halve(name, error)
            self._programs.prepare([name], lambda _: assemble(order(), broadcast, round_key))

    def _rank(self, state, broadcast, round_key, watch):
        """Ranks by user at download of ``broadcast``."""
        with watch("compile"):
            self._prepare(state, broadcast, round_key, rank=True)
        with watch("evaluation"):
            everyone = np.arange(self.problem.num_clients)
            ranks = []
            for index in range(len(self.layout.buckets)):
                states, places = self._take(state.clients, index)
                rank = self._fitting(
                    programs.evaluate(self._kind(index)),
                    partial(self._order, index, everyone),
                    partial(self._arguments.evaluate, index, states, places),
                    broadcast,
                    round_key,
                )
                ranks.append(rank)
            return self._rows.by_user(ranks)

    def _take(self, everyone, index):
        """As ``DeviceStates.take``, with the bucket's place among all rows."""
        states, start = self._states.take(everyone, index)
        return states, self._arguments.places(int(start), index)

    def _order(self, index, part):
        return self._rows.order(index, part, self._programs.width(self._kind(index)))

    def _kind(self, index):
        return self.layout.buckets[index].kind

    # Beginning --------------------------------------------------------------------------------

    def _init_server(self):
        key = jax.random.fold_in(self._key, 0)
        server_key = jax.random.fold_in(key, int(Purpose.INIT_SERVER))
        server = self.method.init(server_key, self.problem)
        return distribution.same_everywhere(server)

    def _client_shape(self, server):
        """Shapes of one client's state as it is kept."""
        users = int(self.problem.users_per_client.max())
        return jax.eval_shape(lambda s: self.method.init_client(self._key, s, users), server)

    def _place_states(self, folder):
        if self.place == "device":
            return DeviceStates(self.layout, self._rows, self._shard)
        if self.place == "host":
            folder = None
        elif folder is None:
            raise InputError("states on the disk need a folder: name the run's with out (--out)")
        return HostStates(self.layout, self._shard, self._one, folder)

    # Placement --------------------------------------------------------------------------------

    def _shard(self, x):
        return distribution.shard(x, self._batched)
