"""FedCIA's parameter-free form: clients share item co-occurrence, a graph filter does the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import Broadcast, Info, Method, Traffic
from fedjax_rec.methods.gram_sum import GramSum, gram_sum, mean_gram
from fedjax_rec.methods.traced import traced
from fedjax_rec.server import add_mean_laplace, leading_eigenvectors

__all__ = ["FedCIAGFConfig", "fedcia_gf"]

_COUNTED_ROWS = 128  # rows of a client's co-occurrence matrix that exist at once
# Square root of the smallest degree, as a share of the largest: a millionth as popular. What is
# below in the estimate of the roots is the noise of an eigenvector that is zero there.
_SMALLEST_ROOT = 1e-3


@dataclass(frozen=True)
class FedCIAGFConfig:
    """Options of FedCIA's graph filter.

    Attributes:
      global_weight: of the global filter's score beside the client's own.
      low_pass_weight: of the ideal low-pass filter beside the linear one, in both.
      low_pass_rank: eigenvectors that the ideal low-pass filter lets pass.
      laplace: scale δ of the Laplace noise that every client adds to each number it uploads. With
        noise no number is zero: the upload is then dense.
    """

    global_weight: float = 60.0
    low_pass_weight: float = 0.3
    low_pass_rank: int = 32
    laplace: float = 0.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("global_weight", "low_pass_weight")

    def __post_init__(self) -> None:
        for name in ("global_weight", "low_pass_weight", "laplace"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        if self.low_pass_rank < 1:
            raise InputError(f"low_pass_rank={self.low_pass_rank} must be at least 1")


class Server(NamedTuple):
    gram: jax.Array  # [m, m] float32, P_g
    low_pass: jax.Array  # [m, r] float32, leading eigenvectors of P_g
    roots: jax.Array  # [m] float32, square roots of the items' degrees, up to a factor
    entries: jax.Array  # [] int32, numbers in the upper triangle of P_g that are not zero
    participants: jax.Array  # [] float32, K of the last round
    known: jax.Array  # [] bool, whether there is a P_g yet


class Client(NamedTuple):
    """Made from the client's data at every download; between rounds there is nothing to keep."""

    history: jax.Array  # [U, m] float32, R: 1 where a user has trained on an item
    normalized: jax.Array  # [U, m] float32, R̃
    low_pass: jax.Array  # [r, m] float32, leading right singular vectors of R̃, as rows
    roots: jax.Array  # [m] float32, square roots of the items' degrees at this client


class Upload(NamedTuple):
    """P = R̃ᵀR̃ as it is summed, and how many numbers of its upper triangle are not zero."""

    factor: jax.Array  # [m, U] float32, R̃ᵀ
    entries: jax.Array  # [] int32


def fedcia_gf(config: FedCIAGFConfig) -> Method:
    """FedCIA with GF-CF instead of embeddings: no training, one round.

    With R the 0/1 interactions of a client's users, and D_u and D_i their and the items' degrees,

        R̃ = D_u^(−1/2) R D_i^(−1/2),   P = R̃ᵀR̃,
        score_u = r_u (P + 0.3·D_i^(−1/2) V Vᵀ D_i^(1/2)),

    with V the 32 leading eigenvectors of P. Clients upload P; the server sends the mean P_g, and
    a client adds 60 times the score of the filter that P_g makes to its own.

    Args:
      config: options.

    Differs from the paper, which leaves open what D_i is in the global filter, as nobody uploads
    degrees: the leading eigenvector of a normalized P is √D_i up to a factor, so that of P_g takes
    its place. A client can compute V and D_i of the global filter from P_g: they cost nothing on
    the wire. There is no noise by default, since it would make a sparse upload dense.

    Reference:
      FedCIA (see ``fedcia``). Shen et al., "How Powerful is Graph Convolution for
      Recommendation?" (GF-CF), CIKM 2021.
    """
    rank = config.low_pass_rank

    def init(key: jax.Array, problem: Problem) -> Server:
        m = problem.num_items
        if rank > m:
            raise InputError(
                f"low_pass_rank={rank} is more than the {m} items of {problem.dataset.name}: "
                f"use at most {m}"
            )
        return Server(
            gram=jnp.zeros((m, m)),
            low_pass=jnp.zeros((m, rank)),
            roots=jnp.zeros(m),
            entries=jnp.int32(0),
            participants=jnp.float32(0),
            known=jnp.bool_(False),
        )

    def receive(key: jax.Array, client: Any, download: Broadcast, data: ClientData) -> Client:
        held = (jnp.arange(data.items.shape[0]) < data.positives).astype(jnp.float32)
        shape = (data.num_users, download.shared.gram.shape[0])
        history = jnp.zeros(shape).at[data.users, data.items].add(held)
        by_user, by_item = jnp.sum(history, axis=1), jnp.sum(history, axis=0)
        normalized = history * _inverse(jnp.sqrt(by_user))[:, None] * _inverse(jnp.sqrt(by_item))
        return Client(history, normalized, _right_vectors(normalized, rank), jnp.sqrt(by_item))

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Upload, Info]:
        upload = Upload(client.normalized.T, _entries(client.history))
        return client, upload, Info(jnp.float32(0))

    def reduce(
        acc: GramSum | None, uploads: Upload, weights: jax.Array
    ) -> tuple[GramSum, jax.Array]:
        return gram_sum(acc, uploads.factor, weights), uploads.entries

    def server_step(key: jax.Array, server: Server, reduced: GramSum) -> Server:
        return server._replace(gram=mean_gram(reduced), participants=reduced.weight)

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        gram = np.array(server.gram)
        if config.laplace:
            clients = round(float(server.participants))
            add_mean_laplace(gram, scale=config.laplace, clients=clients, rng=rng)
        vectors = leading_eigenvectors(gram, rank)
        roots = np.abs(vectors[:, 0])
        roots = np.where(roots < _SMALLEST_ROOT * roots.max(), 0, roots)
        diagonal = np.count_nonzero(np.diagonal(gram))
        return server._replace(
            gram=jnp.asarray(gram),
            low_pass=jnp.asarray(vectors),
            roots=jnp.asarray(roots),
            entries=jnp.int32((np.count_nonzero(gram) + diagonal) // 2),
            known=jnp.bool_(True),
        )

    def scores(client: Client, shared: Server, user: jax.Array) -> jax.Array:
        now = traced(config)
        history = client.history[user]
        own = (client.normalized @ history) @ client.normalized
        own += now.low_pass_weight * _low_pass(history, client.low_pass, client.roots)
        others = history @ shared.gram
        others += now.low_pass_weight * _low_pass(history, shared.low_pass.T, shared.roots)
        return own + now.global_weight * others

    def traffic(download: Broadcast, upload: Upload, sent: int) -> Traffic:
        def matrix(entries):
            if config.laplace:
                return uplink.triangle(items)
            # A diagonal is worth the pairs with one more item.
            return uplink.pairs(items + 1, entries)

        items = upload.factor.shape[0]
        server: Server = download.shared
        return Traffic(
            down=matrix(int(server.entries)) if bool(server.known) else (), up=matrix(sent)
        )

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.low_pass)} if bool(server.known) else {}

    return Method(
        name="fedcia-gf",
        config=config,
        init=init,
        init_client=lambda key, server, num_users: (),
        broadcast=lambda server: Broadcast(shared=server),
        receive=receive,
        local_update=local_update,
        retain=lambda client: (),
        uplink=uplink.identity(),
        weight=lambda data: jnp.float32(1),
        reduce=reduce,
        server_step=server_step,
        between_rounds=between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        default_rounds=1,
        published_evaluation="download",
    )


def _low_pass(history, vectors, roots):
    """r D^(−1/2) Vᵀ V D^(1/2) for [m] r and [r, m] orthonormal rows V."""
    return (vectors @ (history * _inverse(roots))) @ vectors * roots


def _right_vectors(normalized, count):
    """The ``count`` leading right singular vectors of [U, m] rows; [min(count, U), m].

    By the small eigenproblem of R̃R̃ᵀ. Where there are fewer than that, rows of zeros.
    """
    values, left = jnp.linalg.eigh(normalized @ normalized.T)
    values, left = values[-count:], left[:, -count:]
    # Singular values of a normalized matrix are at most 1.
    scale = jnp.where(values > 1e-6, _inverse(jnp.sqrt(jnp.maximum(values, 0))), 0)
    return (left * scale).T @ normalized


def _entries(history):
    """Pairs of items i ≤ j that some user of the client has both of; [] int32."""
    users, items = history.shape
    if users == 1:
        count = jnp.sum(history > 0)
        return (count * (count + 1) // 2).astype(jnp.int32)
    blocks = -(-items // _COUNTED_ROWS)
    padded = jnp.pad(history, ((0, 0), (0, blocks * _COUNTED_ROWS - items)))

    def add(block, total):
        first = block * _COUNTED_ROWS
        rows = jax.lax.dynamic_slice_in_dim(padded, first, _COUNTED_ROWS, axis=1)
        upper = jnp.arange(items) >= first + jnp.arange(_COUNTED_ROWS)[:, None]
        return total + jnp.sum((rows.T @ history > 0) & upper, dtype=jnp.int32)

    return jax.lax.fori_loop(0, blocks, add, jnp.int32(0))


def _inverse(x):
    """1/x, and 0 where x is 0."""
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)
