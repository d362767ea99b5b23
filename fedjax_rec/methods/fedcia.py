"""FedCIA: clients share the Gram matrices of their item embeddings, and align to the mean."""

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
from fedjax_rec.losses.gram import inner_products
from fedjax_rec.methods.contract import (
    Broadcast,
    ByClient,
    Info,
    Method,
    Traffic,
    weighted_sum,
)
from fedjax_rec.methods.gram_alignment import Eigenbasis, GramMatrix, align
from fedjax_rec.methods.gram_sum import GramSum, gram_sum, mean_gram
from fedjax_rec.methods.memory import Memory, initial_memory
from fedjax_rec.methods.mf_training import MFTraining, train_mf
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import MF, score
from fedjax_rec.server import add_mean_laplace, eigenbasis

__all__ = ["FedCIAConfig", "fedcia"]

# The eigenproblem grows with m³ (1.4 s at 1,682 items, 20 s here), its gain with m² alone.
_EIGEN_ITEMS = 4096


@dataclass(frozen=True)
class FedCIAConfig(MFTraining):
    """Options of FedCIA. The defaults are its release's for 100 silos, but for --loss.

    On 2 CPU cores that is minutes a round (100 clients, 1,682 items: 140 s of alignment): lower
    --dim and --align-steps first, both count.

    Attributes:
      align_steps: SGD steps that a client takes towards the global Gram matrix in every round. 0
        is the control: matrix factorization on every client for itself, and no traffic.
      align_lr: learning rate of these steps.
      align_form: how they are computed, which changes nothing but the time: "eigen" in the global
        matrix's eigenbasis, "identity" with the matrix itself, "auto": "eigen" up to 4,096 items.
      rank: r; clients upload their Gram matrix's best approximation of that rank, as a factor of
        m·r numbers; None: the whole matrix.
      widths: embedding widths of the clients, the first for the first part of them, and so on
        (512 256 128: a third each). The widest must be --dim. Unset: --dim for all.
      laplace: scale δ of the Laplace noise that every client adds to each number it uploads.
    """

    dim: int = 512
    optimizer: Literal["sgd", "adam"] = "adam"
    item_lr: float | None = 0.1
    weight_decay: float = 1e-6
    batch_size: int = 4096
    negatives: int = 1
    init_std: float = 0.1
    keep_optimizer: bool = True
    resample_negatives: bool = False
    align_steps: int = 100
    align_lr: float = 0.1
    align_form: Literal["auto", "eigen", "identity"] = "auto"
    rank: int | None = None
    widths: tuple[int, ...] = ()
    laplace: float = 0.001

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("align_lr",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align_steps < 0:
            raise InputError(f"align_steps={self.align_steps} must be 0 or more")
        for name in ("align_lr", "laplace"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if self.align_form not in ("auto", "eigen", "identity"):
            raise InputError(
                f"align_form={self.align_form!r} is not known: use 'auto', 'eigen' or 'identity'"
            )
        if self.rank is not None and not 1 <= self.rank <= self.dim:
            raise InputError(f"rank={self.rank} must be from 1 to dim={self.dim}")
        if self.widths and (min(self.widths) < 1 or max(self.widths) != self.dim):
            raise InputError(
                f"widths={' '.join(map(str, self.widths))}: all must be at least 1, and the "
                f"widest must be dim={self.dim}"
            )

    def eigen(self, num_items: int) -> bool:
        """Whether the alignment uses the eigenbasis on a catalogue of ``num_items``."""
        if self.align_form == "auto":
            return num_items <= _EIGEN_ITEMS
        return self.align_form == "eigen"


class Server(NamedTuple):
    gram: jax.Array  # [m, m] float32, G; a column of zeros, [m, 1], where nothing is shared
    basis: Any  # Eigenbasis of G, or () where it is not used
    participants: jax.Array  # [] float32, K of the last round
    known: jax.Array  # [] bool, whether there is a G yet
    widths: Any  # ByClient: [] int32, each client's; or () where all have the same


class Download(NamedTuple):
    target: Eigenbasis | GramMatrix
    known: jax.Array


class Client(NamedTuple):
    user: Any  # MF parameters, one embedding a user
    items: jax.Array  # [m, d] float32, the client's own for good
    memory: Memory


def fedcia(config: FedCIAConfig) -> Method:
    """Federated recommendation by collaborative information aggregation.

    A client's embeddings never leave it. It uploads their Gram matrix E Eᵀ, whose entries do not
    depend on how its space is rotated, nor on its width; the server takes the mean G, and sends
    that; the client takes gradient steps on ‖E Eᵀ − G‖_F, keeps the result as its E, and goes on
    with local training. In the first round there is no G and no alignment.

    The alignment is what a client does with a download, so scoring at ``download``, the default,
    does it once more for the scores: an evaluated round takes almost twice as long. Evaluate every
    few rounds. At ``trained`` no step is taken twice, but it is not what a user is served, and a
    little worse (``benchmarks/fedcia_ml100k.py --evaluate-at trained`` compares).

    Args:
      config: options.

    Differs from the paper: noise is added to the mean, once, from the law that the mean of all
    clients' noise has, and every pair of items is noised and counted once, since a symmetric
    matrix travels as its upper triangle (the paper counts m² numbers). With --rank the numbers
    that travel are those of the factor: these are noised, by each client. BCE is the default loss;
    the release minimizes the elementwise squared error, ``loss="mse"``. Every client draws its own
    initial items: nothing in the method needs a common start, and what the draws have in common
    would stay in the mean.

    Reference:
      Han et al., "FedCIA: Federated Collaborative Information Aggregation for Privacy-Preserving
      Recommendation", 2025, arXiv:2504.14208.
    """
    shares = config.align_steps > 0

    def init(key: jax.Array, problem: Problem) -> Server:
        m, count = problem.num_items, problem.num_clients
        basis: Any = ()
        if shares and config.eigen(m):
            basis = Eigenbasis(jnp.zeros((m, m)), jnp.zeros(m))
        widths: Any = ()
        if config.widths:
            part = np.arange(count) * len(config.widths) // count
            widths = ByClient(jnp.asarray(np.asarray(config.widths)[part], jnp.int32))
        gram = jnp.zeros((m, m if shares else 1))
        return Server(gram, basis, jnp.float32(0), jnp.bool_(False), widths)

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        items_key, user_key, memory_key = jax.random.split(key, 3)
        items = config.initial_items(items_key, server.gram.shape[0])
        model = MF(num_users, config.init_std)
        user = model.init(user_key, jnp.int32(0), items[:1])["params"]
        return Client(user, items, initial_memory(memory_key, user, items, config))

    def broadcast(server: Server) -> Broadcast:
        shared: Any = ()
        if shares:
            eigen = isinstance(server.basis, Eigenbasis)
            shared = Download(server.basis if eigen else GramMatrix(server.gram), server.known)
        return Broadcast(shared, per_client=server.widths if config.widths else None)

    def receive(key: jax.Array, client: Client, download: Broadcast, data: ClientData) -> Client:
        user, items = client.user, client.items
        if config.widths:
            # Columns that the client does not have. Once zero in all its factors they stay zero:
            # no step of the training or of the alignment has a gradient there.
            used = jnp.arange(config.dim) < download.per_client
            user = jax.tree.map(lambda x: jnp.where(used, x, 0), user)
            items = jnp.where(used, items, 0)
        if shares:
            shared: Download = download.shared

            def aligned(items):
                lr = traced(config).align_lr
                return align(items, shared.target, steps=config.align_steps, lr=lr)

            items = jax.lax.cond(shared.known, aligned, lambda items: items, items)
        return client._replace(user=user, items=items)

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Any, Info]:
        user, items, memory, info = train_mf(
            key,
            client.user,
            client.items,
            client.memory,
            data,
            config,
            width=download.per_client if config.widths else None,
        )
        factor: Any = () if not shares else items
        if shares and config.rank is not None:
            factor = _low_rank(items, config.rank)
        return Client(user, items, memory), factor, info

    def reduce(acc: GramSum | None, factors: jax.Array, weights: jax.Array) -> tuple[GramSum, None]:
        return gram_sum(acc, factors, weights), None

    def server_step(key: jax.Array, server: Server, reduced: GramSum) -> Server:
        return server._replace(gram=mean_gram(reduced), participants=reduced.weight)

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        if not shares:
            return server
        gram, basis = np.array(server.gram), server.basis
        if config.laplace and config.rank is None:
            clients = round(float(server.participants))
            add_mean_laplace(gram, scale=config.laplace, clients=clients, rng=rng)
        if isinstance(basis, Eigenbasis):
            values, vectors = eigenbasis(gram)
            basis = Eigenbasis(jnp.asarray(vectors), jnp.asarray(values))
        return server._replace(gram=jnp.asarray(gram), basis=basis, known=jnp.bool_(True))

    def scores(client: Client, shared: Any, user: jax.Array) -> jax.Array:
        model = MF(client.user["embedding"].shape[0])
        return score(model, client.user, user, client.items)

    def traffic(download: Broadcast, upload: Any, sent: None) -> Traffic:
        if not shares:
            return Traffic(down=(), up=())
        matrix = uplink.triangle(upload.shape[0])
        return Traffic(
            down=matrix if bool(download.shared.known) else (),
            up=matrix if config.rank is None else uplink.dense(upload),
        )

    def item_view(server: Server) -> dict[str, np.ndarray]:
        if not isinstance(server.basis, Eigenbasis) or not bool(server.known):
            return {}
        values = np.asarray(server.basis.values)[::-1][: config.dim]
        vectors = np.asarray(server.basis.vectors)[:, ::-1][:, : config.dim]
        # The embeddings, up to a rotation, whose Gram matrix is nearest to G.
        return {"item_embeddings": vectors * np.sqrt(np.maximum(values, 0))}

    noised = config.laplace > 0 and config.rank is not None
    return Method(
        name="fedcia",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        retain=lambda client: client,
        uplink=uplink.laplace(config.laplace) if noised else uplink.identity(),
        weight=lambda data: jnp.float32(1),
        reduce=reduce if shares else weighted_sum,
        server_step=server_step if shares else lambda key, server, reduced: server,
        between_rounds=between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        published_evaluation="download",
    )


def _low_rank(items, rank):
    """[m, r] F with F Fᵀ the best approximation of E Eᵀ: E·V_r, with EᵀE = V Σ Vᵀ."""
    _, vectors = jnp.linalg.eigh(inner_products(items))
    return items @ vectors[:, -rank:]
