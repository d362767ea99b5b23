"""Methods whose clients train for themselves: nothing goes up, nothing comes down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_between_rounds,
    identity_receive,
    weighted_sum,
)
from fedjax_rec.methods.memory import Memory, Remembering, initial_memory
from fedjax_rec.models import score
from fedjax_rec.uplink import identity

__all__ = ["alone", "nothing_shared"]


class Server(NamedTuple):
    catalogue: jax.Array  # [m] bool: all that clients need of it is its length


class Client(NamedTuple):
    user: Any  # parameters of the model
    items: jax.Array  # [m, …] float32, the client's own for good
    memory: Memory


def alone(
    name: str,
    config: Remembering,
    *,
    model: Callable[[int], nn.Module],
    embedding: str,
    initial_items: Callable[[jax.Array, int], jax.Array],
    train: Callable[..., tuple[Any, jax.Array, Memory, Info]],
    centralized: bool = False,
) -> Method:
    """A method of clients that share nothing, each with items of its own draw.

    Args:
      name: of the method.
      config: its options.
      model: number of user slots -> score function.
      embedding: its parameter that has a row for every user slot.
      initial_items: (key, m) -> a client's first items, [m, …].
      train: (key, user, items, memory, data, config) -> (user, items, memory, Info).
      centralized: whether the one client is the centre that holds all users' data.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        if centralized and problem.num_clients > 1:
            raise InputError(
                f"{name} trains on all data in one place, but {problem.num_clients:,} clients hold "
                "it: run it by fedjax_rec.simulate, or give fedjax_rec.data.centralize(problem)"
            )
        return Server(jnp.ones(problem.num_items, bool))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        items_key, user_key, memory_key = jax.random.split(key, 3)
        items = initial_items(items_key, len(server.catalogue))
        user = model(num_users).init(user_key, jnp.int32(0), items[:1])["params"]
        return Client(user, items, initial_memory(memory_key, user, items, config))

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, tuple[()], Info]:
        user, items, memory, info = train(key, *client, data, config)
        return Client(user, items, memory), (), info

    def scores(client: Client, shared: Any, user: jax.Array) -> jax.Array:
        return score(model(len(client.user[embedding])), client.user, user, client.items)

    return Method(
        name=name,
        config=config,
        init=init,
        init_client=init_client,
        local_update=local_update,
        scores=scores,
        **nothing_shared(),
        centralized=centralized,
    )


def nothing_shared() -> dict[str, Any]:
    """Those fields of a ``Method`` that say what travels: nothing, in either direction."""
    return {
        "broadcast": lambda server: Broadcast(shared=()),
        "receive": identity_receive,
        "retain": lambda client: client,
        "uplink": identity(),
        "weight": lambda data: jnp.float32(1),
        "reduce": weighted_sum,
        "server_step": lambda key, server, reduced: server,
        "between_rounds": identity_between_rounds,
        "traffic": lambda download, upload, sent: Traffic(down=(), up=()),
        "item_view": lambda server: {},
        "published_evaluation": "trained",
    }
