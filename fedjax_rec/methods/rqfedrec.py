"""RQFedRec: what travels are embeddings of codes that items share, not of items."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.data import Problem, item_semantics
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.losses import reconstruct, sum_by_code
from fedjax_rec.methods.code_training import train_codebooks
from fedjax_rec.methods.codebook_fit import Channel, Channels, CodebookFit, fit_codebooks, rebuild
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_receive,
    weighted_sum,
)
from fedjax_rec.methods.fedmf import FedMFConfig, fedmf
from fedjax_rec.methods.local_training import LocalTraining
from fedjax_rec.methods.mf_training import train_mf_afresh
from fedjax_rec.methods.recoding import Coding, codes_of, mixing_weight, recode
from fedjax_rec.methods.shared_items import Held, own_scores
from fedjax_rec.methods.touched import Touched, touched_rows
from fedjax_rec.methods.uplink_options import Uplink
from fedjax_rec.models import MF, score
from fedjax_rec.server import hash_codes

__all__ = ["RQFedRecConfig", "rqfedrec"]

_PARTS = ("codebooks", "collaborative", "semantic", "item-embeddings")


@dataclass(frozen=True)
class RQFedRecConfig(LocalTraining, Uplink, Coding, CodebookFit):
    """Options of RQFedRec.

    Rates and weight decay are the best by validation on ML-100K over 100 silos
    (benchmarks/ratio_settings.py); the paper names none.

    Attributes:
      semantics: where the items' content comes from: text (titles and genres, the default), a path
        that ends in .npz (arrays item_id and embedding), or sentence-transformers.
      noise: scale δ of the Laplace noise that a client adds to its item embeddings before it fits
        the codebooks.
      weighting: how the server averages codebooks. "data": by the clients' training interactions
        |D_k|. "touched": each codeword likewise, but over the clients whose items use it.
      without: leave a part out. codebooks: item embeddings travel instead (FedMF). collaborative,
        semantic: one channel only. item-embeddings: codebooks are trained on the interactions
        themselves, with no item embeddings in between.
      fix_collaborative: make the collaborative codes once, and keep them.
    """

    dim: int = 512
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 0.007
    item_lr: float | None = 0.007
    weight_decay: float = 3e-5
    batch_size: int = 1024
    local_epochs: int = 2
    init_std: float = 0.001
    semantics: str | None = None
    noise: float = 0.0
    weighting: Literal["data", "touched"] = "data"
    without: Literal["codebooks", "collaborative", "semantic", "item-embeddings"] | None = None
    fix_collaborative: bool = False

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        Coding.__post_init__(self)
        CodebookFit.__post_init__(self)
        check_choice("weighting", self.weighting, ("data", "touched"))
        if self.without is not None:
            check_choice("without", self.without, _PARTS)
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise={self.noise} must be a finite number, 0 or more")
        if self.noise and self.laplace and self.without == "codebooks":
            raise InputError(
                "noise and laplace are one and the same with without='codebooks', where item "
                "embeddings are what is uploaded: give one of them"
            )
        unread = [
            f"{option}={value!r}"
            for option, value in (("without", self.without), ("codebook", self.codebook))
            if value in ("semantic", "codebooks", "hash")
        ]
        if self.semantics is not None and unread:
            raise InputError(
                f"semantics={self.semantics!r} is not read with {unread[0]}, where no item is "
                "coded by its content: leave one of the two out"
            )
        if self.noise and self.without == "item-embeddings":
            raise InputError(
                "noise is added to item embeddings: leave it out with without='item-embeddings', "
                "or use laplace, which is added to what is uploaded"
            )


class Server(NamedTuple):
    channels: Channels  # λ is the coming round's
    coded: jax.Array  # [] bool, whether there are collaborative codes
    recode_error: jax.Array  # [] float32 of the last recoding, −1 before the first


class Download(NamedTuple):
    channels: Channels
    items: jax.Array  # [m, d] float32, rebuilt from them: the same for all, so computed once


class Client(NamedTuple):
    user: Any  # MF parameters, one embedding a user
    items: Any  # Held within a round; () between rounds: all items are those of the download


class Weighted(NamedTuple):
    """One channel's codebook as it is uploaded.

    Attributes:
      codebook: [L, M, d] float32.
      present: [L, M] bool, whether a codeword counts for this client; () where all do. Not floats,
        which an uplink transform would clip, quantize and add noise to.
    """

    codebook: jax.Array
    present: Any


class Upload(NamedTuple):
    semantic: Weighted
    collaborative: Weighted


def rqfedrec(config: RQFedRecConfig) -> Method:
    """Feature-indexed federated recommendation with residual-quantized codebooks.

    Every item is L codes in each of two channels: a semantic one, coded once from the items'
    content, and a collaborative one, coded anew every τ rounds from the global item embeddings.
    Clients rebuild the items from the codebooks that they download,

        v_i = (1 − λ)·Σ_ℓ B^{s,ℓ}[q^{s,ℓ}(i)] + λ·Σ_ℓ B^{c,ℓ}[q^{c,ℓ}(i)],    λ = min(1, t/T_warm),

    train users and items on their interactions, fit both codebooks to the trained items, and upload
    the codebooks; the server averages them. λ is 0 until there are collaborative codes.

    All clients start a round from the same items, so a client trains and holds the rows that its
    samples touch only: O(touched·d + L·M·d) numbers.

    Args:
      config: options.

    Differs from the paper: where the paper leaves a choice open (optimizers, steps of the fit,
    negatives), the options' own text says what is done. Users and items take one joint step a
    batch; optimizers are rebuilt every round. A channel of weight 0 does not travel. Codes travel
    in every round, as the paper counts them, though they change only when they are remade. Without
    the semantic channel, collaborative codes start as a hash, since nothing is known of the items.

    Reference:
      Han et al., "Feature-Indexed Federated Recommendation with Residual-Quantized Codebooks",
      2026, arXiv:2601.18570.
    """
    if config.without == "codebooks":
        return _item_embeddings(config)
    shape = (config.levels, config.codewords, config.dim)
    transform = config.transform()
    direct = config.without == "item-embeddings"

    def init(key: jax.Array, problem: Problem) -> Server:
        m = problem.num_items
        if config.codewords > m:
            raise InputError(
                f"codewords={config.codewords} is more than the {m} items of "
                f"{problem.dataset.name}: use at most {m}"
            )
        books_key, codes_key = jax.random.split(key)
        semantic_seed, hash_seed = (
            int(word) for word in jax.random.bits(codes_key, (2,), jnp.uint32)
        )
        # A sum of L codewords has the standard deviation that is asked for.
        std = config.init_std / config.levels**0.5
        books = std * jax.random.normal(books_key, (2, *shape))
        hashed = hash_codes(m, levels=config.levels, codewords=config.codewords, seed=hash_seed)
        alone = config.without == "semantic"
        if alone:
            codes = hashed
        elif config.codebook == "hash":
            codes = codes_of(np.zeros((m, 1), np.float32), config, seed=semantic_seed)
        else:
            codes = codes_of(
                item_semantics(problem.dataset, config.semantics), config, seed=semantic_seed
            )
        channels = Channels(
            Channel(books[0], jnp.asarray(codes)),
            Channel(books[1], jnp.asarray(hashed)),
            jnp.float32(alone),
        )
        return Server(channels, jnp.bool_(alone), jnp.float32(-1))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        model = MF(num_users, config.init_std)
        user = model.init(key, jnp.int32(0), jnp.zeros((1, config.dim)))["params"]
        return Client(user, ())

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(Download(server.channels, rebuild(server.channels)))

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Upload, Info]:
        shared: Download = download.shared
        m = len(shared.items)
        samples = draw_round(key, data, m, config.negatives)
        touched = touched_rows(samples, m)
        channels = shared.channels._replace(
            semantic=_own(shared.channels.semantic, touched),
            collaborative=_own(shared.channels.collaborative, touched),
        )
        counts = jnp.zeros(touched.mask.shape).at[touched.samples.items].add(samples.valid)
        if direct:
            user, trained, info = train_codebooks(
                key, client.user, channels, touched.samples, data, config, num_items=m
            )
            rows = rebuild(trained)
            books = trained.semantic.codebook, trained.collaborative.codebook
        else:
            user, rows, info = train_mf_afresh(
                key,
                client.user,
                touched.rows(shared.items),
                data,
                config,
                samples=touched.samples,
                num_items=m,
            )
            target = rows
            if config.noise:
                # The last number that fold_in takes: samples and shuffles count up from 0.
                noise_key = jax.random.fold_in(key, 2**32 - 1)
                target = rows + config.noise * jax.random.laplace(noise_key, rows.shape)
            importance = counts if config.fit_items == "samples" else jnp.sign(counts)
            books = fit_codebooks(channels, target, importance, config)
        parts = zip(books, (channels.semantic, channels.collaborative), strict=True)
        upload = Upload(*(_weighted(book, channel.codes, counts) for book, channel in parts))
        return Client(user, Held(touched.items, rows)), upload, info

    def _weighted(book: jax.Array, codes: jax.Array, counts: jax.Array) -> Weighted:
        if config.weighting == "data":
            return Weighted(book, ())
        used = sum_by_code(jnp.sign(counts)[:, None], codes, codewords=config.codewords)
        return Weighted(book, used[..., 0] > 0)

    def retain(client: Client) -> Client:
        return client._replace(items=())

    def reduce(acc: Any, uploads: Upload, weights: jax.Array) -> tuple[Any, None]:
        if config.weighting == "touched":
            # Here and not on the client: noise of the uplink is on every codeword that it sent.
            uploads = Upload(
                *(Weighted(book * present[..., None], present) for book, present in uploads)
            )
        return weighted_sum(acc, uploads, weights)

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        def mean(channel: Channel, total: Weighted) -> Channel:
            if config.weighting == "data":
                return channel._replace(codebook=total.codebook / reduced.weight)
            present = total.present[..., None]
            average = total.codebook / jnp.where(present > 0, present, 1)
            return channel._replace(codebook=jnp.where(present > 0, average, channel.codebook))

        semantic, collaborative, weight = server.channels
        total: Upload = reduced.total
        return server._replace(
            channels=Channels(
                mean(semantic, total.semantic), mean(collaborative, total.collaborative), weight
            )
        )

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        if config.without == "collaborative":
            return server
        semantic, collaborative, weight = server.channels
        coded = bool(server.coded)
        fixed = config.fix_collaborative and float(server.recode_error) >= 0
        if config.codebook == "hash":  # of the items' ids: embeddings do not change it
            fixed = coded
        if round_ % config.recode_every == 0 and not fixed:
            previous = reconstruct(*(collaborative if coded else semantic))
            made = recode(
                np.asarray(rebuild(server.channels)),
                np.asarray(previous),
                config,
                seed=int(rng.integers(2**32)),
            )
            collaborative = Channel(jnp.asarray(made.codebook), jnp.asarray(made.codes))
            server = server._replace(recode_error=jnp.float32(made.error))
            coded = True
        if coded and config.without != "semantic":
            weight = jnp.float32(mixing_weight(round_, config.warmup))
        return server._replace(
            channels=Channels(semantic, collaborative, weight), coded=jnp.bool_(coded)
        )

    def scores(client: Client, shared: Download, user: jax.Array) -> jax.Array:
        model = MF(client.user["embedding"].shape[0])

        def own(rows: jax.Array) -> jax.Array:
            return score(model, client.user, user, rows)

        return own_scores(own, shared.items, client.items)

    def traffic(download: Broadcast, upload: Upload, sent: None) -> Traffic:
        channels = download.shared.channels
        weight = float(channels.weight)
        down, up = [], []
        for channel, part, share in (
            (channels.semantic, upload.semantic, 1 - weight),
            (channels.collaborative, upload.collaborative, weight),
        ):
            if share == 0:
                continue
            codes = uplink.labels(channel.codes.size, config.codewords)
            down += [uplink.dense(channel.codebook), codes]
            up.append(uplink.dense(part.codebook))
            if config.weighting == "touched":
                up.append(uplink.labels(part.present.size, 2))
        return Traffic(down=down, up=up)

    def item_view(server: Server) -> dict[str, np.ndarray]:
        channel = server.channels.collaborative if server.coded else server.channels.semantic
        return {
            "item_embeddings": np.asarray(rebuild(server.channels)),
            "labels": np.asarray(channel.codes[:, 0], np.int32),
        }

    def epsilon(upload: Upload, rounds: int) -> float | None:
        if config.weighting == "touched":
            return None  # which codewords a client uses is sent as it is
        rows = 2 * config.levels * config.codewords
        return uplink.epsilon(config.clip, config.laplace, rows=rows, dim=config.dim, rounds=rounds)

    def diagnostics(server: Server) -> dict[str, float | int | None]:
        return {
            "mixing_weight": float(server.channels.weight),
            "recode_error": float(server.recode_error) if server.recode_error >= 0 else None,
        }

    return Method(
        name="rqfedrec",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=transform,
        weight=lambda data: data.positives.astype(jnp.float32),
        reduce=reduce,
        server_step=server_step,
        between_rounds=between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=epsilon,
        diagnostics=diagnostics,
        published_evaluation="download",
    )


def _item_embeddings(config: RQFedRecConfig) -> Method:
    """The same training with item embeddings on the wire: FedMF."""
    noise = {"laplace": config.noise} if config.noise else {}
    shared = {field.name for field in fields(FedMFConfig)} & {f.name for f in fields(config)}
    options = {name: getattr(config, name) for name in shared} | noise
    return fedmf(FedMFConfig(**options))._replace(name="rqfedrec", config=config)


def _own(channel: Channel, touched: Touched) -> Channel:
    """A channel with the codes of the touched items only."""
    return channel._replace(codes=touched.rows(channel.codes))
