"""AlignFedRec: clients share item similarities, and align theirs at two levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.losses import AlignmentTerm, ContrastTerm, structural_loss
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_between_rounds,
    identity_receive,
    weighted_sum,
)
from fedjax_rec.methods.contrast_sample import ContrastSample
from fedjax_rec.methods.local_training import LocalTraining, train_locally
from fedjax_rec.models import Concat, score
from fedjax_rec.server import communities, modularity, similarity_graph
from fedjax_rec.tiles import grid
from fedjax_rec.uplink import SimilaritySum, SimilarityUplink

__all__ = ["AlignFedRecConfig", "alignfedrec"]


@dataclass(frozen=True)
class AlignFedRecConfig(LocalTraining, ContrastSample):
    """Options of AlignFedRec; the defaults are those that its write-up names.

    Attributes:
      threshold: σ. Similarities below it are neither sent nor aligned.
      graph_threshold: global similarities below it make no edge of the server's graph; unset: σ,
        as the paper. A mean over clients of whom few know both items of a pair is small.
      contrast_weight: α, weight of the inter-community term L_ICA. The write-up tunes it for each
        dataset in 0.005 … 0.5.
      alignment_weight: β, weight of the similarity term L_GSA.
      ica: whether L_ICA is part of the loss (and labels travel); --no-ica is the ablation.
      gsa: whether L_GSA is part of the loss (and M_g travels); --no-gsa is the ablation. Without
        both nothing is shared at all: the local-only control of this backbone.
      temperature: τ of L_ICA.
      base_temperature: τ₀ of L_ICA.
      anchors: of L_ICA. "positive": mean over the items that have a positive, "all": over all.
      center: subtract the mean item embedding before taking cosines, in both terms and the upload.
      clustering: communities of the global graph by Leiden or by Louvain (the paper's moves).
      laplace: scale δ of Laplace noise added to every similarity that is sent. It gives no ε:
        which pairs are sent is not hidden.
      bits: bits of a similarity that is sent; None: float32.
      similarity_dtype: type in which the global similarities are kept, and sent down.
    """

    dim: int = 64
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    item_lr: float | None = 1e-3
    local_epochs: int = 3
    threshold: float = 0.5
    graph_threshold: float | None = None
    contrast_weight: float = 0.05
    alignment_weight: float = 5.0
    ica: bool = True
    gsa: bool = True
    temperature: float = 0.1
    base_temperature: float = 0.07
    anchors: Literal["all", "positive"] = "positive"
    center: bool = False
    clustering: Literal["leiden", "louvain"] = "leiden"
    laplace: float | None = None
    bits: int | None = None
    similarity_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        ContrastSample.__post_init__(self)
        for name in ("contrast_weight", "alignment_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if self.graph_threshold is not None and not 0 < self.graph_threshold <= 1:
            raise InputError(
                f"graph_threshold={self.graph_threshold} must be above 0 and at most 1"
            )
        self.uplink().check()
        self.contrast().check()
        if self.clustering not in ("leiden", "louvain"):
            raise InputError(
                f"clustering={self.clustering!r} is not known: use 'leiden' or 'louvain'"
            )
        if self.similarity_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"similarity_dtype={self.similarity_dtype!r} is not known: "
                "use 'float32' or 'bfloat16'"
            )

    def uplink(self) -> SimilarityUplink:
        """What a client does to its similarity matrix before it leaves."""
        return SimilarityUplink(self.threshold, self.center, self.laplace, self.bits)

    def contrast(self) -> ContrastTerm:
        """α·L_ICA."""
        return ContrastTerm(
            self.temperature, self.base_temperature, self.anchors, self.contrast_weight
        )

    def alignment(self) -> AlignmentTerm:
        """β·L_GSA."""
        return AlignmentTerm(self.threshold, self.alignment_weight)


class Server(NamedTuple):
    items: jax.Array  # [m, d] float32, the table that every client starts from
    similarity: jax.Array  # M_g packed, [tiles, t, t]
    pairs: jax.Array  # [] int32, pairs of items whose global similarity is not 0
    labels: jax.Array  # [m] int32, communities
    known: jax.Array  # [] bool, whether a round has made M_g and the labels
    modularity: jax.Array  # [] float32, of the labels; NaN where the graph has no edge


class Download(NamedTuple):
    """What travels down, in the simulator's form; ``traffic`` says what it weighs."""

    labels: Any  # [m] int32, or () without ICA
    similarity: Any  # [tiles, t, t], or () without GSA
    known: jax.Array
    pairs: jax.Array


class Client(NamedTuple):
    user: Any  # Concat parameters, one layer a user
    items: jax.Array  # [m, d] float32, the client's own for good


def alignfedrec(config: AlignFedRecConfig) -> Method:
    """Federated recommendation by two-level structural alignment.

    Clients minimize BCE + α·L_ICA + β·L_GSA. They upload M_u, the cosine similarities of their
    item embeddings of at least σ; no embedding leaves a client. The server averages them to M_g,
    finds the communities of the graph M_g ≥ σ, and sends M_g (sparse) and the labels. L_ICA is the
    supervised contrastive loss under the labels, L_GSA the masked Frobenius distance of M_u to
    M_g. In the first round there is neither, and clients train by BCE alone.

    Args:
      config: options.

    Differs from the paper: L_GSA carries gradient into the embeddings (the write-up's sample code
    detaches them, so that its L_GSA does nothing). Leiden is the default; ``clustering="louvain"``
    is the paper's. Every client starts from one draw of items. A symmetric matrix is counted once
    a pair. That the published figures rank among 99 sampled items, and that their training
    negatives exclude the held-out items (``--protocol published``), is inferred from the release
    of the backbone's family: the write-up does not say.

    Reference:
      AlignFedRec; backbone σ(Linear([u, E_i])).
    """
    alignment = config.uplink()
    aligns = config.ica or config.gsa

    def init(key: jax.Array, problem: Problem) -> Server:
        m = problem.num_items
        return Server(
            items=config.initial_items(key, m),
            similarity=jnp.zeros(grid(m).shape, config.similarity_dtype),
            pairs=jnp.int32(0),
            labels=jnp.arange(m, dtype=jnp.int32),
            known=jnp.bool_(False),
            modularity=jnp.float32(0),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        model = Concat(num_users)
        user = model.init(key, jnp.int32(0), server.items[:1])["params"]
        return Client(user, server.items)

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(
            Download(
                server.labels if config.ica else (),
                server.similarity if config.gsa else (),
                server.known,
                server.pairs,
            )
        )

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Any, Info]:
        shared: Download = download.shared

        def structure(items, batch):
            return structural_loss(
                items,
                labels=shared.labels if config.ica else None,
                contrast=config.contrast() if config.ica else None,
                global_similarity=shared.similarity if config.gsa else None,
                alignment=config.alignment() if config.gsa else None,
                center=config.center,
                sample=config.sample_items(key, batch, len(items)) if config.ica else None,
            )

        user, items, info = train_locally(
            key,
            Concat(data.num_users),
            client.user,
            client.items,
            data,
            config,
            user_first=False,
            regularizer=structure if aligns else None,
            regularize=shared.known,
        )
        return Client(user, items), items if aligns else (), info

    def server_step(key: jax.Array, server: Server, reduced: SimilaritySum) -> Server:
        similarity = (reduced.total / reduced.weight).astype(config.similarity_dtype)
        return server._replace(similarity=similarity, pairs=_pairs(similarity, len(server.labels)))

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        seed = int(rng.integers(2**31))
        threshold = config.graph_threshold or config.threshold
        graph = similarity_graph(
            np.asarray(server.similarity), len(server.labels), threshold=threshold
        )
        labels = communities(graph, threshold=threshold, method=config.clustering, seed=seed)
        return server._replace(
            labels=jnp.asarray(labels, jnp.int32),
            known=jnp.bool_(True),
            modularity=jnp.float32(modularity(graph, labels, threshold=threshold)),
        )

    def scores(client: Client, shared: Download, user: jax.Array) -> jax.Array:
        model = Concat(client.user["bias"].shape[0])
        return score(model, client.user, user, client.items)

    def traffic(download: Broadcast, upload: Any, sent: Any) -> Traffic:
        if not aligns:
            return Traffic(down=(), up=())
        shared: Download = download.shared
        items = upload.shape[0]
        down: list[Any] = []
        if bool(shared.known):
            if config.ica:
                down.append(uplink.labels(items, int(np.max(shared.labels)) + 1))
            if config.gsa:
                bits = 8 * shared.similarity.dtype.itemsize
                down.append(uplink.pairs(items, int(shared.pairs), value_bits=bits))
        return Traffic(down, up=uplink.pairs(items, sent, value_bits=config.bits or 32))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"labels": np.asarray(server.labels)} if bool(server.known) else {}

    def diagnostics(server: Server) -> dict[str, Any]:
        if not bool(server.known):
            return {}
        return {"modularity": float(server.modularity), "similar_pairs": int(server.pairs)}

    return Method(
        name="alignfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=alignment.transform() if aligns else uplink.identity(),
        weight=lambda data: jnp.float32(1),
        reduce=alignment.add if aligns else weighted_sum,
        server_step=server_step if aligns else lambda key, server, reduced: server,
        between_rounds=between_rounds if aligns else identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        diagnostics=diagnostics,
        published_evaluation="trained",
    )


def _pairs(tiles, items):
    """Pairs of items whose entry is not 0."""
    cut = grid(items)
    rows, columns = jnp.array(cut.places).T
    entries = jnp.sum(tiles != 0, axis=(1, 2), dtype=jnp.int32)
    return jnp.sum(cut.count_pairs(entries, rows, columns))
