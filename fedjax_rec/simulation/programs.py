"""The compiled programs of an engine: which there are, how wide they are, when they compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedjax_rec.errors import RunWarning, TrainingError
from fedjax_rec.methods import Method
from fedjax_rec.methods.traced import arguments_of, taking_arguments
from fedjax_rec.simulation import clients, debug, distribution
from fedjax_rec.simulation.servers import server_shardings

__all__ = ["FINISH", "SERVER", "Name", "Programs", "evaluate", "out_of_memory", "train"]

Name = tuple[Any, ...]
Arguments = Callable[[Name], tuple[Any, ...]]

SERVER: Name = ("server",)
FINISH: Name = ("finish",)

# Part of an accelerator's memory that `chunk="auto"` fills with the temporaries of one group.
_MEMORY_SHARE = 0.5
_UNKNOWN_MEMORY = 8 << 30


def out_of_memory(error: Exception) -> bool:
    """Whether a program was too much for its device."""
    return "RESOURCE_EXHAUSTED" in str(error)


def train(kind: int, evaluating: bool) -> Name:
    """Name of the program that trains buckets of a kind, and ranks users if ``evaluating``."""
    return ("train", kind, evaluating)


def evaluate(kind: int) -> Name:
    """Name of the program that ranks the users of buckets of a kind at download."""
    return ("evaluate", kind)


class Programs:
    """Compiles each program once, ahead of its first call; a compiled program cannot retrace.

    Args:
      method: the method.
      mesh: devices that the client axis is sharded over.
      rows: by kind of bucket, its rows on one device.
      chunk: clients trained side by side: "auto" or a number.
      debug: stand-ins that run client by client without jit.

    The first argument of every compiled program is the numbers among the method's options
    (`methods.traced`): what is compiled for one learning rate serves all. They are put there here.
    """

    def __init__(
        self,
        method: Method,
        mesh: Mesh,
        rows: Mapping[int, int],
        *,
        chunk: int | Literal["auto"],
        debug: bool,
    ) -> None:
        self._method = method
        self._mesh = mesh
        self._rows = rows
        self._chunk = chunk
        self._debug = debug
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._numbers = distribution.replicate(arguments_of(method.config), everywhere)
        self._compiled: dict[Name, Callable[..., Any]] = {}
        self._widths: dict[int, int] = {}

    def __getitem__(self, name: Name) -> Callable[..., Any]:
        """A program that ``prepare`` has compiled."""
        return self._compiled[name]

    def width(self, kind: int) -> int:
        """Clients side by side in a bucket of a kind; 1 until it is known."""
        return self._widths.get(kind, 1)

    def prepare(self, wanted: Sequence[Name], arguments: Arguments) -> None:
        """Compiles what is wanted and not there yet.

        Args:
          wanted: names of programs.
          arguments: name -> the arguments that the program will be called with.
        """
        missing = [name for name in wanted if name not in self._compiled]
        if not missing:
            return
        for kind in {name[1] for name in missing if len(name) > 1} - set(self._widths):
            self._widths[kind] = self._choose_width(kind, arguments)
        # One after another: XLA uses all cores for one program, and two at once would add up to
        # the largest memory use of a small run.
        for name in missing:
            self._compiled[name] = self._compile(name, arguments)

    def _compile(self, name, arguments) -> Any:
        while True:
            try:
                program = self._lower(name, arguments, self._widths).compile()
                return program if self._stands_in(name) else partial(program, self._numbers)
            except jax.errors.JaxRuntimeError as error:
                if name in (SERVER, FINISH) or not out_of_memory(error):
                    raise
                self.halve(name, error)

    def halve(self, name: Name, error: Exception) -> None:
        """Forgets the programs of a kind, which ran out of memory: half as wide from now on.

        Raises:
          TrainingError: the width was asked for, or one client alone is too much.
        """
        kind = name[1]
        width = self._widths[kind]
        if self._chunk != "auto" or width == 1:
            remedy = "use --state host, or fewer items"
            if width > 1:
                remedy = f"use --chunk {width // 2} or less"
            raise TrainingError(
                f"out of device memory with {width} clients side by side: {remedy} "
                "(checkpoints so far are kept)"
            ) from error
        self._widths[kind] = width // 2
        for other in [key for key in self._compiled if key[1:2] == (kind,)]:
            del self._compiled[other]
        warnings.warn(
            f"out of device memory with {width} clients side by side: "
            f"{width // 2} from now on; --chunk {width // 2} saves the attempt",
            RunWarning,
            stacklevel=2,
        )

    def _lower(self, name, arguments, widths) -> Any:
        """One program, lowered: ``.compile()`` gives the callable."""
        method, mesh = self._method, self._mesh
        program: Any
        if name == SERVER:
            program = _server_step(method, mesh, arguments(name))
        elif name == FINISH:
            program = _server_finish(method, mesh, arguments(name))
        elif self._stands_in(name):
            return debug.Program(method, evaluate=name[2] if name[0] == "train" else None)
        elif name[0] == "train":
            program = clients.train_bucket(method, mesh, widths[name[1]], evaluate=name[2])
        else:
            program = clients.evaluate_bucket(method, mesh, widths[name[1]])
        return program.lower(self._numbers, *arguments(name))

    def _stands_in(self, name) -> bool:
        """Whether Python itself runs a program's clients."""
        return self._debug and name not in (SERVER, FINISH)

    def _choose_width(self, kind, arguments) -> int:
        rows = self._rows[kind]
        if self._chunk != "auto":
            return min(self._chunk, rows)
        device = self._mesh.local_devices[0]
        if device.platform == "cpu" or self._debug:
            return 1
        limit = (device.memory_stats() or {}).get("bytes_limit", _UNKNOWN_MEMORY)
        alone = self._lower(train(kind, False), arguments, {kind: 1}).compile()
        temporary = max(1, alone.memory_analysis().temp_size_in_bytes)
        return max(1, min(rows, int(_MEMORY_SHARE * limit / temporary)))


def _server_step(method, mesh, arguments):
    """Sums the devices' accumulators, then the method's own server step.

    It takes (numbers, key, server, acc, Uploads or None) and returns the server's state, and
    whether all that clients uploaded was finite.
    """

    def step(key, server, acc, uploads):
        reduced = jax.tree.map(lambda x: jnp.sum(x, axis=0), acc)
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(reduced)]
        kept = () if uploads is None else (uploads,)
        return method.server_step(key, server, reduced, *kept), jnp.all(jnp.array(finite))

    server, flag = server_shardings(arguments[1], mesh), NamedSharding(mesh, PartitionSpec())
    step = taking_arguments(method.config, step)
    return jax.jit(step, out_shardings=(server, flag))


def _server_finish(method, mesh, arguments):
    """(numbers, key, server, Uploads or None) -> server: the method's ``server_finish``."""
    finish = taking_arguments(method.config, method.server_finish)
    return jax.jit(finish, out_shardings=server_shardings(arguments[1], mesh))
