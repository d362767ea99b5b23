"""GFMFR as a plug-in: groups of clients learn what items are like from the items' content."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.data import Problem
from fedjax_rec.methods.contract import Broadcast, ByClient, Info, Method, Traffic, Uploads
from fedjax_rec.methods.fusion_options import load_content
from fedjax_rec.methods.fusion_server import (
    Training,
    group_means,
    group_preferences,
    train_network,
)
from fedjax_rec.methods.fusion_teacher import Teacher, loss_ratio, moving_average, schedule
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import FusionNetwork
from fedjax_rec.server import align_labels, group_clients

__all__ = ["Backbone", "fuse"]

_NETWORK = 2**32 - 1  # the last number that fold_in takes: no other draw of ``init`` has it


class Backbone(NamedTuple):
    """What the fusion must know of a method: where its items and heads are.

    A method can be one if it predicts probabilities σ(logit), sends all clients the same, has no
    need of single uploads itself, if its clients upload whole item tables, and if its
    ``local_update`` takes a ``Teacher`` as a last argument (None: none) and adds
    ``Teacher.pull`` to every batch's loss.

    Attributes:
      table: the method's upload -> [m, d] the item table in it.
      width: columns of that table.
      head_size: h, numbers of a head.
      user_side: the method's client state after training -> [U, n] float32, what clients send of
        their users, the mean over them, beside the method's own upload; None: nothing.
      head: (the method's upload, [n] users' mean or ()) -> [h], what clients are grouped by.
      score_items: (the method's server state, [h] head, [m, d] items) -> [m] logits: what
        a group that has this head thinks of these items.
    """

    table: Callable[[Any], jax.Array]
    width: int
    head_size: int
    user_side: Callable[[Any], jax.Array] | None
    head: Callable[[Any, Any], jax.Array]
    score_items: Callable[[Any, jax.Array, jax.Array], jax.Array]


class Server(NamedTuple):
    own: Any  # the backbone's
    content: tuple[jax.Array, ...]  # each [m, w] float32
    network: Any  # FusionNetwork parameters
    preferences: jax.Array  # [g, m] float32, p_g
    group: ByClient  # [K] int32, each client's group, -1 before it first took part
    labels: jax.Array  # [K] int32, the same by client id, for the host
    heads: jax.Array  # [K, h] float32 as uploaded; zeros once the host has grouped them
    took_part: jax.Array  # [K] bool, in the round that the host is to group
    passed: jax.Array  # [] int32, rounds so far
    error: jax.Array  # [] float32 of the fused tables, see ``train_network``; -1 before


class Shared(NamedTuple):
    own: Any
    preferences: jax.Array  # [g, m]; a client downloads its own group's
    passed: jax.Array  # clients count the rounds as well, so it costs nothing


class Client(NamedTuple):
    own: Any  # the backbone's
    ratio: jax.Array  # [] float32, moving average of BCE/KL; 0 before there is one


class Upload(NamedTuple):
    own: Any  # the backbone's
    user: Any  # [1, n] float32, mean over the client's users; () where the backbone sends enough


def fuse(method: Method, options: Any, backbone: Backbone) -> Method:
    """A backbone under GFMFR's fusion; the backbone itself where none is asked for.

    In every round the server groups the clients by their heads, names the groups as in the round
    before, and averages the item tables of each group. One network learns to make the g tables
    from the items' content. The group's mean head then scores the table that the network made:
    p_g(i), a preference that knows what an item is about, not only who has seen it. A client
    downloads its group's p_g and minimizes, over each batch's samples,

        BCE + η·KL(p_g ‖ σ(logit)),    η = weight · schedule(t) · average of BCE/KL,

    whose gradient in a logit is that of labels y + η·p instead of y (times 1 + η).

    A client without a group yet has no KL term. One that took no part keeps its group, and
    downloads what that group prefers now. A group of which nobody took part keeps its preference.
    The clients of a silo share its group, and their heads are averaged.

    What this costs in privacy: where a head is a user's own (the linear head of PFedRec and
    FedRAP, FedMF's and FedNCF's user embedding), it leaves the client, which without fusion it
    does not.

    Args:
      method: the backbone's method.
      options: with the fields of ``Fusion``, ``LocalTraining`` and ``Uplink``.
      backbone: how the fusion reads it.

    Differs from the release: its moving average of BCE/KL is one for all clients, in the order in
    which they are visited, batch by batch, and has no limit; ours is one a client, which nobody
    else can see, of the round's samples before training. A client without a group has its labels
    once more for a teacher there. Its network is trained by SGD on (group, item) pairs, ours by
    Adam on items, each for all groups, in units of the tables' root mean square; modalities are
    centred and scaled to mean square 1. T is an option, not the run's rounds, which no method
    knows. As there, the KL is over a batch's own samples, O(B), not over all m items.

    Reference:
      "Multimodal-enhanced Federated Recommendation: A Group-wise Fusion Approach" (GFMFR), and its
      release.
    """
    if not options.fuses:
        return method
    groups = options.fusion_groups
    negatives = options.negatives

    network = FusionNetwork(groups, backbone.width, options.fusion_hidden, options.fusion_network)
    training = Training(options.fusion_epochs, options.fusion_batch_size, options.fusion_lr)

    def init(key: jax.Array, problem: Problem) -> Server:
        content = tuple(jnp.asarray(x) for x in load_content(options, problem.dataset))
        clients = problem.num_clients
        one_item = [vectors[:1] for vectors in content]
        parameters = network.init(jax.random.fold_in(key, _NETWORK), one_item)["params"]
        return Server(
            own=method.init(key, problem),
            content=content,
            network=parameters,
            preferences=jnp.zeros((groups, problem.num_items)),
            group=ByClient(np.full(clients, -1, np.int32)),
            labels=jnp.full(clients, -1, jnp.int32),
            heads=jnp.zeros((clients, backbone.head_size)),
            took_part=jnp.zeros(clients, bool),
            passed=jnp.int32(0),
            error=jnp.float32(-1),
        )

    def init_client(key: jax.Array, server: Server, num_users: int) -> Client:
        return Client(method.init_client(key, server.own, num_users), ratio=jnp.float32(0))

    def broadcast(server: Server) -> Broadcast:
        own = method.broadcast(server.own).shared
        return Broadcast(Shared(own, server.preferences, server.passed), per_client=server.group)

    def receive(key: jax.Array, client: Client, download: Broadcast, data: ClientData) -> Client:
        return client._replace(own=method.receive(key, client.own, _own(download), data))

    def local_update(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Client, Upload, Info]:
        teacher, ratio = _teacher(key, client, download, data)
        own, upload, info = method.local_update(key, client.own, _own(download), data, teacher)
        user: Any = ()
        if backbone.user_side is not None:
            present = jnp.arange(len(data.items)) < data.positives
            users = jnp.zeros(data.num_users).at[data.users].max(present.astype(jnp.float32))
            user = (users @ backbone.user_side(own))[None] / jnp.maximum(jnp.sum(users), 1)
        return Client(own, ratio), Upload(upload, user), info

    def _teacher(
        key: jax.Array, client: Client, download: Broadcast, data: ClientData
    ) -> tuple[Teacher, jax.Array]:
        """The client's teacher in this round, and its new average of BCE/KL."""
        shared, group = download.shared, download.per_client
        preference = shared.preferences[jnp.maximum(group, 0)]
        m = len(preference)
        samples = draw_round(key, data, m, negatives)
        slots = jnp.arange(data.num_users)
        logits = jax.vmap(method.scores, (None, None, 0))(client.own, shared.own, slots)
        found = loss_ratio(
            logits[samples.users, samples.items],
            preference,
            samples,
            1 + negatives,
            options.fusion_limit,
        )
        taught = (group >= 0) & (data.positives > 0)
        average = moving_average(client.ratio, found, options.fusion_memory)
        ratio = jnp.where(taught, average, client.ratio)
        level = schedule(options.fusion_schedule, shared.passed, options.fusion_rounds)
        weight = jnp.where(taught, traced(options).fusion_weight * level * ratio, 0)
        return Teacher(preference, weight), ratio

    def accumulator(server: Server) -> Any:
        assert method.accumulator is not None
        return method.accumulator(server.own)

    def reduce(acc: Any, uploads: Upload, weights: jax.Array) -> tuple[Any, Any]:
        return method.reduce(acc, uploads.own, weights)

    def server_step(key: jax.Array, server: Server, reduced: Any, uploads: Uploads) -> Server:
        clients, _ = server.heads.shape
        place = jnp.where(uploads.client >= 0, uploads.client, clients)  # beyond them: dropped
        return server._replace(
            own=method.server_step(key, server.own, reduced),
            heads=jnp.zeros_like(server.heads).at[place].set(_heads(uploads), mode="drop"),
            took_part=jnp.zeros_like(server.took_part).at[place].set(True, mode="drop"),
        )

    def _heads(uploads: Uploads) -> jax.Array:
        upload: Upload = uploads.values
        users = () if backbone.user_side is None else upload.user[:, 0]
        return jax.vmap(backbone.head)(upload.own, users)

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        own = method.between_rounds(rng, round_, server.own)
        part = np.flatnonzero(server.took_part)
        labels = np.array(server.labels)
        heads = np.asarray(server.heads)
        found = group_clients(
            heads[part],
            groups,
            method=options.fusion_grouping,
            pca=options.fusion_pca,
            seed=int(rng.integers(2**31)),
        )
        labels[part] = align_labels(found, labels[part], groups)
        # The heads have done their work: as zeros they take no room in a checkpoint.
        return server._replace(
            own=own, labels=jnp.asarray(labels), heads=jnp.zeros(heads.shape, heads.dtype)
        )

    def server_finish(key: jax.Array, server: Server, uploads: Uploads) -> Server:
        present = uploads.client >= 0
        labels = jnp.where(present, server.labels[jnp.maximum(uploads.client, 0)], -1)
        own = jax.vmap(backbone.table)(uploads.values.own)
        means = group_means(own, _heads(uploads), labels, groups)
        parameters, fused, error = train_network(
            key, network, server.network, server.content, means, training
        )
        preferences = group_preferences(
            partial(backbone.score_items, server.own), means.heads, fused
        )
        return server._replace(
            network=parameters,
            preferences=jnp.where(means.present[:, None], preferences, server.preferences),
            group=ByClient(jnp.where(present, labels, server.group.rows)),
            passed=server.passed + 1,
            error=error,
        )

    def scores(client: Client, shared: Shared, user: jax.Array) -> jax.Array:
        return method.scores(client.own, shared.own, user)

    def traffic(download: Broadcast, upload: Upload, sent: Any) -> Traffic:
        shared: Shared = download.shared
        own = method.traffic(_own(download), upload.own, sent)
        preference: Any = ()
        if int(shared.passed):
            preference = uplink.dense(shared.preferences[0])
        return Traffic(down=(own.down, preference), up=(own.up, uplink.dense(upload.user)))

    def epsilon(upload: Upload, rounds: int) -> float | None:
        parts = [method.epsilon(upload.own, rounds)]
        parts += [options.epsilon(row, rounds) for row in jax.tree.leaves(upload.user)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def diagnostics(server: Server) -> dict[str, float | int | None]:
        error = float(server.error)
        return {
            **method.diagnostics(server.own),
            "fusion_error": error if error >= 0 else None,
            "groups": len(np.unique(server.labels[server.labels >= 0])),
        }

    return method._replace(
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        retain=lambda client: client._replace(own=method.retain(client.own)),
        accumulator=None if method.accumulator is None else accumulator,
        reduce=reduce,
        server_step=server_step,
        between_rounds=between_rounds,
        server_finish=server_finish,
        keep_uploads=True,
        scores=scores,
        traffic=traffic,
        item_view=lambda server: method.item_view(server.own),
        epsilon=epsilon,
        diagnostics=diagnostics,
    )


def _own(download: Broadcast) -> Broadcast:
    """The backbone's broadcast."""
    return Broadcast(download.shared.own)
