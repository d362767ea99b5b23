"""CGFedRec: the server sends nothing but item cluster labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses import ContrastTerm, supervised_contrastive
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_receive,
    weighted_mean,
    weighted_sum,
)
from fedjax_rec.methods.contrast_sample import ContrastSample
from fedjax_rec.methods.local_training import LocalTraining, initial_head, train_locally
from fedjax_rec.methods.traced import traced
from fedjax_rec.methods.uplink_options import Uplink
from fedjax_rec.models import LinearHead, score
from fedjax_rec.server import communities, cosine_similarity_graph, kmeans, modularity

__all__ = ["CGFedRecConfig", "cgfedrec"]


@dataclass(frozen=True)
class CGFedRecConfig(LocalTraining, Uplink, ContrastSample):
    """Options of CGFedRec, with the reference hyper-parameters.

    Attributes:
      clusters: C, number of k-means clusters. Leiden and Louvain find their own number.
      contrast_weight: ρ, weight of the contrastive loss beside the BCE.
      temperature: τ of the contrastive loss.
      base_temperature: τ₀; the loss is scaled by τ/τ₀.
      anchors: "all": mean over all items, as the reference. "positive": over those that have a
        positive.
      clustering: how the server groups items. Leiden and Louvain work on the graph of cosine
        similarities of at least --similarity-threshold between the mean item embeddings.
      similarity_threshold: see --clustering.
    """

    local_epochs: int = 2
    clusters: int = 60
    contrast_weight: float = 0.005
    temperature: float = 0.1
    base_temperature: float = 0.5
    anchors: Literal["all", "positive"] = "all"
    clustering: Literal["kmeans", "leiden", "louvain"] = "kmeans"
    similarity_threshold: float = 0.5

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("contrast_weight",)

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        ContrastSample.__post_init__(self)
        if self.clusters < 1:
            raise InputError(f"clusters={self.clusters} must be at least 1")
        if not 0 <= self.contrast_weight < float("inf"):
            raise InputError(f"contrast_weight={self.contrast_weight} must be 0 or more")
        ContrastTerm(self.temperature, self.base_temperature, self.anchors).check()
        if self.clustering not in ("kmeans", "leiden", "louvain"):
            raise InputError(
                f"clustering={self.clustering!r} is not known: use 'kmeans', 'leiden' or 'louvain'"
            )
        if not 0 < self.similarity_threshold <= 1:
            raise InputError(
                f"similarity_threshold={self.similarity_threshold} must be above 0 and at most 1"
            )


class Labels(NamedTuple):
    """All that the server sends: [m] int32 item clusters, and whether there are any yet."""

    labels: jax.Array
    known: jax.Array


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, mean of the uploaded tables; never sent down
    labels: Labels
    head: Any  # LinearHead parameters that every client starts from
    modularity: Any  # [] float32 of the communities, NaN while there are none; () for k-means


class Client(NamedTuple):
    head: Any  # LinearHead parameters, one head a user
    items: jax.Array  # [m, d] float32, the client's own for good


def cgfedrec(config: CGFedRecConfig) -> Method:
    """Cluster-guided federated recommendation.

    Clients minimize BCE + ρ·L_con, with L_con the supervised contrastive loss of their own item
    embeddings under the server's labels, and upload their item tables. The server averages them,
    clusters the mean, and sends back only the labels; clients keep their own embeddings. In the
    first round there are no labels and no contrastive term.

    Args:
      config: options.

    Differs from the paper: the optimizer defaults to SGD, as in the rest of the family
    (``optimizer="adam"`` is the release's own default). The head has no gradient from L_con, so
    the term is evaluated in the item step only; the releases evaluate it in both.

    Reference:
      CGFedRec; backbone and rates as PFedRec's release.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        if config.clustering == "kmeans" and config.clusters > problem.num_items:
            raise InputError(
                f"clusters={config.clusters} is more than the {problem.num_items} items of "
                f"{problem.dataset.name}: use at most {problem.num_items}"
            )
        items_key, head_key = jax.random.split(key)
        return Server(
            config.initial_items(items_key, problem.num_items),
            Labels(jnp.zeros(problem.num_items, jnp.int32), jnp.bool_(False)),
            initial_head(head_key, problem, config.dim),
            () if config.clustering == "kmeans" else jnp.float32(jnp.nan),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(server.head, server.items)

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=server.labels)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, jax.Array, Info]:
        labels, known = download.shared

        def contrast(items, batch):
            return traced(config).contrast_weight * supervised_contrastive(
                items,
                labels,
                temperature=config.temperature,
                base_temperature=config.base_temperature,
                anchors=config.anchors,
                sample=config.sample_items(key, batch, len(items)),
            )

        head, items, info = train_locally(
            key,
            LinearHead(data.num_users),
            client.head,
            client.items,
            data,
            config,
            user_first=True,
            regularizer=contrast if config.contrast_weight else None,
            regularize=known,
        )
        return Client(head, items), items, info

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return server._replace(items=weighted_mean(reduced))

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        items = np.asarray(server.items)
        seed = int(rng.integers(2**31))
        quality: Any = ()
        if config.clustering == "kmeans":
            labels = kmeans(items, config.clusters, seed=seed)
        else:
            threshold = config.similarity_threshold
            graph = cosine_similarity_graph(items, threshold=threshold)
            labels = communities(graph, threshold=threshold, method=config.clustering, seed=seed)
            quality = jnp.float32(modularity(graph, labels, threshold=threshold))
        known = Labels(jnp.asarray(labels, jnp.int32), jnp.bool_(True))
        return server._replace(labels=known, modularity=quality)

    def scores(client: Client, shared: Labels, user: jax.Array) -> jax.Array:
        model = LinearHead(client.head["bias"].shape[0])
        return score(model, client.head, user, client.items)

    def traffic(download: Broadcast, upload: jax.Array, sent: None) -> Traffic:
        labels, known = download.shared
        down: Any = ()
        if bool(known):
            found = int(np.max(labels)) + 1
            classes = config.clusters if config.clustering == "kmeans" else found
            down = uplink.labels(labels.size, classes)
        return Traffic(down=down, up=uplink.dense(upload))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        view = {"item_embeddings": np.asarray(server.items)}
        if bool(server.labels.known):
            view["labels"] = np.asarray(server.labels.labels)
        return view

    def diagnostics(server: Server) -> dict[str, float | int | None]:
        return {} if config.clustering == "kmeans" else {"modularity": float(server.modularity)}

    return Method(
        name="cgfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        reduce=weighted_sum,
        server_step=server_step,
        between_rounds=between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        diagnostics=diagnostics,
        published_evaluation="trained",
    )
