"""GPFedRec: the server links similar users, and each is drawn to its neighbours' item table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import Batch, ClientData
from fedjax_rec.data import Problem
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods.contract import (
    Broadcast,
    ByClient,
    Info,
    Method,
    Traffic,
    Uploads,
    identity_between_rounds,
    identity_receive,
)
from fedjax_rec.methods.kept_uploads import everyone_has, sum_of_values
from fedjax_rec.methods.local_training import (
    LocalTraining,
    check_layers,
    continue_training,
    fresh_optimizers,
)
from fedjax_rec.methods.traced import traced
from fedjax_rec.methods.uplink_options import Uplink
from fedjax_rec.models import MLP, score
from fedjax_rec.relations import cosine_similarities, mix_tables, neighbour_weights

__all__ = ["GPFedRecConfig", "gpfedrec"]


@dataclass(frozen=True)
class GPFedRecConfig(LocalTraining, Uplink):
    """Options of GPFedRec, with the defaults of its release; training is by SGD.

    The items' rate is η·m·item_lr_scale − η.

    Attributes:
      user_lr_scale: the user embedding's learning rate is η · this; the network's is η. The
        release has 80·η − η.
      layers: units of the network's hidden layers. Before them come 2·dim inputs.
      similarity: what the user graph is thresholded by. "cosine": of two uploaded tables, as in
        the paper. "distance": 1 − cosine, as in the release, which links dissimilar users.
      neighbour_threshold: γ; a user's neighbours are more similar to it than γ · the mean of all
        pairs.
      neighbours: a user's nearest so many instead; unset: by threshold.
      message_layers: L, how often tables are averaged over neighbours.
      target_weight: weight of MSE(E, E_k), which draws a client's items to those of its
        neighbours; 0: nothing does, and E_k is not sent.
    """

    user_lr_scale: float = 79.0
    layers: tuple[int, ...] = (32, 16, 8)
    similarity: Literal["cosine", "distance"] = "cosine"
    neighbour_threshold: float = 1.0
    neighbours: int | None = None
    message_layers: int = 1
    target_weight: float = 1.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("user_lr_scale", "target_weight")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer != "sgd":
            raise InputError(f"optimizer={self.optimizer!r}: gpfedrec trains by SGD, leave it out")
        check_layers(self.layers)
        check_choice("similarity", self.similarity, ("cosine", "distance"))
        if self.neighbours is not None and self.neighbours < 1:
            raise InputError(f"neighbours={self.neighbours} must be at least 1")
        if self.message_layers < 1:
            raise InputError(f"message_layers={self.message_layers} must be at least 1")
        for name in ("user_lr_scale", "neighbour_threshold", "target_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")

    def items_rate(self, num_items: int) -> float:
        """The items' learning rate."""
        if self.item_lr is not None:
            return self.item_lr
        return self.lr * num_items * self.item_lr_scale - self.lr


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, mean of the targets: what every client starts a round from
    targets: ByClient  # [K, m, d] float32, E_k
    user: Any  # MLP parameters that every client starts from


class Client(NamedTuple):
    user: Any  # MLP parameters: an embedding for each user, one network for all of them
    items: Any  # [m, d] float32 as trained, within a round; () between rounds


def gpfedrec(config: GPFedRecConfig) -> Method:
    """Graph-guided personalization: users with similar items have similar tastes.

    Clients upload their item tables and keep the user embedding and the network. The server
    compares all tables with each other and links each user to those that are more similar than
    the mean, itself among them. L times, every table becomes the mean of its neighbours': E_k.
    A client downloads the mean of all E_k, which its items start from, and its own E_k. It
    minimizes BCE + MSE(E, E_k), all parameters in one step. The loss reported is the BCE.

    Users that take no part in a round keep their E_k, and are nobody's neighbour.

    Args:
      config: options.

    Differs from the paper: the release's cosine "similarity" is a distance (1 − cosine), so that it
    links users who differ; we follow the paper, and ``similarity="distance"`` does as the release.
    With ``neighbours`` it takes that many, its own order deciding among equals; we take all equals.
    All clients start from one draw, user embeddings included, as there. Users of one client share
    a network; the release has one user a client.

    Reference:
      Zhang et al., "GPFedRec: Graph-Guided Personalization for Federated Recommendation", KDD 2024.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        items_key, user_key = jax.random.split(key)
        items = config.initial_items(items_key, problem.num_items)
        model = MLP(int(problem.users_per_client.max()), config.layers, config.init_std)
        user = model.init(user_key, jnp.int32(0), items[:1])["params"]
        return Server(items, everyone_has(items, problem), user)

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(server.user, items=())

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=server.items, per_client=server.targets)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, jax.Array, Info]:
        model = MLP(data.num_users, config.layers, config.init_std)
        now = traced(config)

        def cross_entropy(user: Any, rows: jax.Array, batch: Batch) -> jax.Array:
            faster = _with_rate(user["embedding"], now.user_lr_scale)
            logits = score(model, {**user, "embedding": faster}, batch.users, rows)
            return binary_cross_entropy(logits, batch.labels, batch.mask)

        def away_from_target(items: jax.Array, batch: jax.Array) -> jax.Array:
            return now.target_weight * jnp.mean((items - download.per_client) ** 2)

        user, items, _, info = continue_training(
            key,
            cross_entropy,
            client.user,
            download.shared,
            fresh_optimizers(client.user, download.shared, config),
            data,
            config,
            user_first=False,
            regularizer=away_from_target if config.target_weight else None,
        )
        return Client(user, items), items, info

    def retain(client: Client) -> Client:
        return client._replace(items=())

    def server_step(key: jax.Array, server: Server, reduced: Any, uploads: Uploads) -> Server:
        present = uploads.client >= 0
        similarities = cosine_similarities(uploads.values, present)
        if config.similarity == "distance":
            similarities = 1 - similarities
        weights = neighbour_weights(
            similarities,
            present,
            threshold=config.neighbour_threshold,
            count=config.neighbours,
        )
        mixed = mix_tables(
            weights, uploads.values, present, server.targets.rows, times=config.message_layers
        )
        return server._replace(items=mixed.mean, targets=ByClient(mixed.tables))

    def scores(client: Client, shared: jax.Array, user: jax.Array) -> jax.Array:
        model = MLP(len(client.user["embedding"]), config.layers, config.init_std)
        items = shared if isinstance(client.items, tuple) else client.items
        return score(model, client.user, user, items)

    def traffic(download: Broadcast, upload: jax.Array, sent: None) -> Traffic:
        own = download.per_client if config.target_weight else ()
        return Traffic(down=uplink.dense((download.shared, own)), up=uplink.dense(upload))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.items)}

    return Method(
        name="gpfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        reduce=sum_of_values,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        keep_uploads=True,
        epsilon=config.epsilon,
        published_evaluation="trained",
    )


def _with_rate(parameter, factor):
    """The parameter itself, but its gradient, and so its step of SGD, times ``factor``."""
    return parameter + (factor - 1) * (parameter - jax.lax.stop_gradient(parameter))
