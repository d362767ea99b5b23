"""FedRAP: every item is the sum of a personal and a common embedding, and only this is shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.data import Problem
from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.methods.contract import (
    Broadcast,
    Info,
    Method,
    Traffic,
    identity_between_rounds,
    identity_receive,
    weighted_mean,
    weighted_sum,
)
from fedjax_rec.methods.fedrap_training import Penalty, Ramp, Terms, ramp, train_tables
from fedjax_rec.methods.fusion import Backbone, fuse
from fedjax_rec.methods.fusion_options import Fusion
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.local_training import LocalTraining, initial_head
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.methods.traced import traced
from fedjax_rec.methods.uplink_options import Uplink
from fedjax_rec.models import LinearHead, head_rows, score, score_by_row

__all__ = ["FedRAPConfig", "fedrap"]


@dataclass(frozen=True)
class FedRAPConfig(LocalTraining, Uplink, Fusion):
    """Options of FedRAP, with the defaults of its release; training is by SGD.

    Attributes:
      item_lr: learning rate of C.
      personal_lr: learning rate of D; None: that of C, as in the release. D forgets nothing, so
        it learns its client's sampled negatives by heart, held-out items among them, unless it
        is slow.
      apart_weight: λ, of −MSE(D, C), which pushes the two tables apart.
      sparse_weight: μ, of the penalty on C.
      ramp: how λ and μ grow with the rounds: tanh, sin, frac or square; fixed: not at all, which
        is what the release does, whatever it is told.
      penalty: l1: mean |C|. l2: mean C². nuclear: sum of the batch's singular values.
      step_decay: factor on all rates after each step of a round.
      round_decay: factor on all rates after each round.
      tolerance: a client stops early when an epoch changes its mean objective by less than this,
        relatively; 0: never.
    """

    lr: float = 0.5
    item_lr: float | None = 200.0
    personal_lr: float | None = None
    weight_decay: float = 1e-4
    batch_size: int = 2048
    local_epochs: int = 10
    apart_weight: float = 0.1
    sparse_weight: float = 0.1
    ramp: Ramp = "tanh"
    penalty: Penalty = "l1"
    step_decay: float = 0.95
    round_decay: float = 0.97
    tolerance: float = 1e-4

    ARGUMENTS: ClassVar[tuple[str, ...]] = (
        "personal_lr",
        "apart_weight",
        "sparse_weight",
        "step_decay",
        "round_decay",
        "tolerance",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        Fusion.__post_init__(self)
        if self.optimizer != "sgd":
            raise InputError(f"optimizer={self.optimizer!r}: fedrap trains by SGD, leave it out")
        check_choice("ramp", self.ramp, ("tanh", "sin", "frac", "square", "fixed"))
        check_choice("penalty", self.penalty, ("l1", "l2", "nuclear"))
        for name in ("personal_lr", "apart_weight", "sparse_weight", "tolerance"):
            if not 0 <= (getattr(self, name) or 0) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")
        for name in ("step_decay", "round_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} must be above 0 and at most 1")


class Server(NamedTuple):
    common: jax.Array  # [m, d] float32, C, mean of the clients' tables
    personal: jax.Array  # [m, d] float32, the D that every client starts from
    head: Any  # LinearHead parameters that every client starts from
    passed: jax.Array  # [] int32, rounds so far


class Download(NamedTuple):
    common: jax.Array  # [m, d] float32, C
    passed: jax.Array  # [] int32, rounds so far; clients count them as well, so it costs nothing


class Client(NamedTuple):
    head: Any  # LinearHead parameters, one head a user
    personal: jax.Array  # [m, d] float32, D, the client's own for good
    common: Any  # [m, d] float32, C as trained, within a round; () between rounds


def fedrap(config: FedRAPConfig) -> Method:
    """Additive personalization: score = σ(w·(D_i + C_i) + b), of which only C leaves the client.

    Clients minimize BCE − λ(t)·MSE(D, C) + μ(t)·mean|C| over each batch's rows, all parameters in
    one step. They upload C, the server takes the plain mean, and clients overwrite theirs with it.

    The λ term is negative on purpose: it rewards tables that differ, so that they do not learn the
    same thing. It has no lower bound. A step multiplies D − C by about 1 + 4·η·λ·n/(B·d), with n
    the times an item comes in a batch of B samples, and weight decay by 1 − η·10⁻⁴. With the
    release's rates the two are of one size, and what keeps the tables finite is that the rates
    fade. A larger λ or rate can diverge, which the simulator reports.

    A client of several users holds one D for them and a head for each.

    Args:
      config: options.

    Differs from the paper: it writes sums over all items, ‖D − C‖² and ‖C‖₁; its release, and
    this, means over a batch's rows. In the release the ramps are computed and never reach the loss:
    λ and μ are their full values from the first round on; ``ramp="fixed"`` reproduces that. Its
    ramps would come one round later (0 in the first round, then t = 0, 1, …).

    Reference:
      Li, Long, Zhou, "Federated Recommendation with Additive Personalization", ICLR 2024.
    """

    def init(key: jax.Array, problem: Problem) -> Server:
        common_key, personal_key, head_key = jax.random.split(key, 3)
        return Server(
            common=config.initial_items(common_key, problem.num_items),
            personal=config.initial_items(personal_key, problem.num_items),
            head=initial_head(head_key, problem, config.dim),
            passed=jnp.int32(0),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(server.head, server.personal, common=())

    def broadcast(server: Server) -> Broadcast:
        return Broadcast(shared=Download(server.common, server.passed))

    def local_update(
        key: jax.Array,
        client: Client,
        download: Broadcast,
        data: ClientData,
        teacher: Teacher | None = None,
    ) -> tuple[Client, jax.Array, Info]:
        common, passed = download.shared
        m, d = common.shape
        touched = touched_rows(draw_round(key, data, m, config.negatives), m)
        now = traced(config)
        level = ramp(config.ramp, passed)
        fading = jnp.float32(now.round_decay) ** passed
        common_rate = now.items_rate(m)
        personal_rate = common_rate if config.personal_lr is None else now.personal_lr
        trained = train_tables(
            key,
            client.head,
            jnp.concatenate([touched.rows(client.personal), touched.rows(common)], axis=1),
            touched.samples,
            data,
            Terms(
                apart=now.apart_weight * level,
                sparse=now.sparse_weight * level,
                head_rate=now.lr * fading,
                personal_rate=personal_rate * fading,
                common_rate=common_rate * fading,
            ),
            config,
            num_items=m,
            teacher=None if teacher is None else teacher.of(touched.items),
        )

        def whole(table: jax.Array, kept: jax.Array, rows: jax.Array) -> jax.Array:
            return (kept * table).at[touched.items].set(rows, mode="drop")

        personal = whole(client.personal, trained.kept[0], trained.rows[:, :d])
        common = whole(common, trained.kept[1], trained.rows[:, d:])
        return Client(trained.head, personal, common), common, Info(trained.loss)

    def retain(client: Client) -> Client:
        return client._replace(common=())

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return server._replace(common=weighted_mean(reduced), passed=server.passed + 1)

    def scores(client: Client, shared: Download, user: jax.Array) -> jax.Array:
        model = LinearHead(client.head["bias"].shape[0])
        common = shared.common if isinstance(client.common, tuple) else client.common
        return score(model, client.head, user, client.personal + common)

    def traffic(download: Broadcast, upload: jax.Array, sent: None) -> Traffic:
        return Traffic(down=uplink.dense(download.shared.common), up=uplink.dense(upload))

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.common)}

    method = Method(
        name="fedrap",
        config=config,
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=identity_receive,
        local_update=local_update,
        retain=retain,
        uplink=config.transform(),
        weight=lambda data: jnp.float32(1),
        reduce=weighted_sum,
        server_step=server_step,
        between_rounds=identity_between_rounds,
        scores=scores,
        traffic=traffic,
        item_view=item_view,
        epsilon=config.epsilon,
        published_evaluation="download",
    )
    backbone = Backbone(
        table=lambda upload: upload,
        width=config.dim,
        head_size=config.dim + 1,
        user_side=lambda client: head_rows(client.head),
        head=lambda upload, user: user,
        score_items=lambda server, row, items: score_by_row(row, items),
    )
    return fuse(method, config, backbone)
