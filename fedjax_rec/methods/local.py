"""Local-only control: every client trains alone. It is also the leak detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.methods.alone import nothing_shared
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
)
from fedjax_rec.methods.local_training import LocalTraining, initial_head, train_locally
from fedjax_rec.models import LinearHead, score

__all__ = ["LocalConfig", "local"]


@dataclass(frozen=True)
class LocalConfig(LocalTraining):
    """Options of the local-only control: those of PFedRec, with CGFedRec's two local epochs."""

    local_epochs: int = 2


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, the table that every client starts from
    head: Any  # LinearHead parameters that every client starts from


class Client(NamedTuple):
    head: Any  # LinearHead parameters, one head a user
    items: jax.Array  # [m, d] float32


def local(config: LocalConfig) -> Method:
    """PFedRec's backbone with the federation switched off: nothing goes up, nothing comes down.

    Since clients share nothing, its accuracy on held-out items can only be chance (uni99: HR@10
    of 10 %) unless the evaluation leaks. Under ``--protocol published`` it reaches 90 % and more.

    Args:
      config: options.

    Reference:
      The PFedRec repository's issue 3 reports the effect.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        items_key, head_key = jax.random.split(key)
        return Server(
            config.initial_items(items_key, problem.num_items),
            initial_head(head_key, problem, config.dim),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(server.head, server.items)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, tuple[()], Info]:
        model = LinearHead(data.num_users)
        head, items, info = train_locally(
            key, model, client.head, client.items, data, config, user_first=True
        )
        return Client(head, items), (), info

    def scores(client: Client, shared: Any, user: jax.Array) -> jax.Array:
        model = LinearHead(client.head["bias"].shape[0])
        return score(model, client.head, user, client.items)

    return Method(
        name="local",
        config=config,
        init=init,
        init_client=init_client,
        local_update=local_update,
        scores=scores,
        **nothing_shared(),
    )
