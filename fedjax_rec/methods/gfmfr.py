"""GFMFR: FedRAP's tables under a small network, and groups that know what the items are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

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
from fedjax_rec.methods.fedrap import FedRAPConfig
from fedjax_rec.methods.fedrap_training import Terms, ramp, train_tables
from fedjax_rec.methods.fusion import Backbone, fuse
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import MLP, score, score_by_row

__all__ = ["GFMFRConfig", "gfmfr"]


@dataclass(frozen=True)
class GFMFRConfig(FedRAPConfig):
    """Options of GFMFR, with the defaults of its release but for init_std of D and the users.

    Attributes:
      fusion: none: the backbone alone.
      lr: learning rate of the network and the users' embeddings.
      item_lr: of C and D; unset: η·m·item_lr_scale.
      init_std: standard deviation of the initial tables and user embeddings. The release's own,
        0.01, is of C only, and D and the users start from N(0, 1): a noise that stays in every
        item which a client has not trained.
      round_decay: factor on the tables' rates after each round.
      network_decay: factor on the network's and the users' rate after each round.
      scorer: what of a group's mean head scores the fused items. output: the output layer alone,
        as in the release, though it was trained on what the hidden layer makes of items. network:
        all of it, for the group's mean user; users' embeddings are uploaded then.
    """

    fusion: Literal["none", "gfmfr"] = "gfmfr"
    dim: int = 64
    lr: float = 0.01
    item_lr: float | None = None
    item_lr_scale: float = 1.0
    init_std: float = 0.01
    batch_size: int = 256
    local_epochs: int = 5
    step_decay: float = 1.0
    round_decay: float = 0.9
    network_decay: float = 0.8
    tolerance: float = 0.0
    scorer: Literal["output", "network"] = "output"

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("network_decay",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scorer", self.scorer, ("output", "network"))
        if not 0 < self.network_decay <= 1:
            raise InputError(f"network_decay={self.network_decay} must be above 0 and at most 1")


class Shared(NamedTuple):
    """What all clients have in common.

    Attributes:
      common: [m, d] float32, C.
      network: the hidden layer and the output layer as they travel, {"layer_0": [d, 2d + 1],
        "output": [1, d + 1]}: a row a unit, its bias last.
    """

    common: jax.Array
    network: dict[str, jax.Array]


class Server(NamedTuple):
    shared: Shared  # means of the clients'
    passed: jax.Array  # [] int32, rounds so far


class Client(NamedTuple):
    user: jax.Array  # [U, d] float32, its users' embeddings
    personal: jax.Array  # [m, d] float32, D, the client's own for good
    trained: Any  # Shared as trained, within a round; () between rounds


def gfmfr(config: GFMFRConfig) -> Method:
    """Group-wise fusion on FedRAP's tables: score = σ(a·ReLU(W·[u, D_i + C_i] + b) + c).

    The user embedding u and the personal table D stay on the client; C and the network (W, b, a, c)
    become the clients' means. Clients minimize BCE − λ(t)·MSE(D, C) + μ(t)·mean|C| over each
    batch's rows, all parameters in one step, and the fusion's KL term (see
    ``fedjax_rec.methods.fusion.fuse``). They are grouped by their networks as trained.

    A client of several users holds one D and one network for them, and an embedding for each.

    Args:
      config: options.

    Differs from the release: there λ and μ are multiplied by tanh(t/10) again and again, first by
    tanh 0, and so are 0 after the first round; ours are FedRAP's ramps. Its negatives are the first
    items that a user has not seen; ours are drawn. It ranks all items at k = 50.

    Reference:
      "Multimodal-enhanced Federated Recommendation: A Group-wise Fusion Approach" (GFMFR), and its
      release; tables: Li, Long, Zhou, "Federated Recommendation with Additive Personalization",
      ICLR 2024.
    """
    dim = config.dim
    shapes = {"layer_0": (dim, 2 * dim + 1), "output": (1, dim + 1)}

    def model(num_users: int) -> MLP:
        return MLP(num_users, (dim,), config.init_std)

    def init(key: jax.Array, problem: Problem) -> Server:
        items_key, network_key = jax.random.split(key)
        common = config.initial_items(items_key, problem.num_items)
        drawn = model(1).init(network_key, jnp.int32(0), common[:1])["params"]
        return Server(Shared(common, _packed(drawn)), jnp.int32(0))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        user_key, items_key = jax.random.split(key)
        user = config.init_std * jax.random.normal(user_key, (num_users, dim))
        personal = config.initial_items(items_key, len(server.shared.common))
        return Client(user, personal, trained=())

    def local_update(
        key: jax.Array,
        client: Client,
        download: Broadcast,
        data: ClientData,
        teacher: Teacher | None = None,
    ) -> tuple[Client, Shared, Info]:
        (common, network), passed = download.shared
        m = len(common)
        touched = touched_rows(draw_round(key, data, m, config.negatives), m)
        now = traced(config)
        level = ramp(config.ramp, passed)
        fading = jnp.float32(now.round_decay) ** passed
        common_rate = now.items_rate(m)
        personal_rate = common_rate if config.personal_lr is None else now.personal_lr
        trained = train_tables(
            key,
            {"embedding": client.user, **_unpacked(network)},
            jnp.concatenate([touched.rows(client.personal), touched.rows(common)], axis=1),
            touched.samples,
            data,
            Terms(
                apart=now.apart_weight * level,
                sparse=now.sparse_weight * level,
                head_rate=now.lr * jnp.float32(now.network_decay) ** passed,
                personal_rate=personal_rate * fading,
                common_rate=common_rate * fading,
            ),
            config,
            num_items=m,
            model=model(data.num_users),
            teacher=None if teacher is None else teacher.of(touched.items),
        )

        def whole(table: jax.Array, kept: jax.Array, rows: jax.Array) -> jax.Array:
            return (kept * table).at[touched.items].set(rows, mode="drop")

        personal = whole(client.personal, trained.kept[0], trained.rows[:, :dim])
        common = whole(common, trained.kept[1], trained.rows[:, dim:])
        upload = Shared(common, _packed(trained.head))
        return Client(trained.head["embedding"], personal, upload), upload, Info(trained.loss)

    def retain(client: Client) -> Client:
        return client._replace(trained=())

    def server_step(key: jax.Array, server: Server, reduced: Any) -> Server:
        return Server(weighted_mean(reduced), server.passed + 1)

    def scores(client: Client, download: Server, user: jax.Array) -> jax.Array:
        common, network = client.trained or download.shared
        parameters = {"embedding": client.user, **_unpacked(network)}
        return score(model(len(client.user)), parameters, user, client.personal + common)

    def traffic(download: Broadcast, upload: Shared, sent: None) -> Traffic:
        return Traffic(down=uplink.dense(download.shared.shared), up=uplink.dense(upload))

    def epsilon(upload: Shared, rounds: int) -> float | None:
        parts = [config.epsilon(x, rounds) for x in jax.tree.leaves(upload)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def item_view(server: Server) -> dict[str, np.ndarray]:
        return {"item_embeddings": np.asarray(server.shared.common)}

    method = Method(
        name="gfmfr",
        config=config,
        init=init,
        init_client=init_client,
        # Rounds so far travel for free: clients count them as well.
        broadcast=lambda server: Broadcast(shared=server),
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
        epsilon=epsilon,
        published_evaluation="download",
    )

    def network_of(head: jax.Array) -> dict[str, jax.Array]:
        first = head[: dim * (2 * dim + 1)].reshape(shapes["layer_0"])
        return {"layer_0": first, "output": head[first.size :][None, : dim + 1]}

    def by_output(server: Server, head: jax.Array, items: jax.Array) -> jax.Array:
        return score_by_row(network_of(head)["output"][0], items)

    def by_network(server: Server, head: jax.Array, items: jax.Array) -> jax.Array:
        parameters = {"embedding": head[None, -dim:], **_unpacked(network_of(head))}
        return score(model(1), parameters, jnp.int32(0), items)

    def head(upload: Shared, user: Any) -> jax.Array:
        layers = [upload.network[name].reshape(-1) for name in shapes]
        return jnp.concatenate([*layers, *([] if config.scorer == "output" else [user])])

    whole_network = config.scorer == "network"
    size = sum(rows * columns for rows, columns in shapes.values())
    backbone = Backbone(
        table=lambda upload: upload.common,
        width=dim,
        head_size=size + dim * whole_network,
        user_side=(lambda client: client.user) if whole_network else None,
        head=head,
        score_items=by_network if whole_network else by_output,
    )
    return fuse(method, config, backbone)


def _packed(parameters):
    """The layers of ``MLP`` parameters as they travel, so that noise and bounds reach biases."""
    layers = {name: parameters[name] for name in ("layer_0", "output")}
    return {name: jnp.concatenate([x["kernel"], x["bias"][None]]).T for name, x in layers.items()}


def _unpacked(network):
    return {name: {"kernel": x[:, :-1].T, "bias": x[:, -1]} for name, x in network.items()}
