"""CoFedRec: CGFedRec's clients, and every round one group of them shares a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import uplink
from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem
from fedjax_rec.methods.cgfedrec import CGFedRecConfig, cgfedrec
from fedjax_rec.methods.contract import (
    Broadcast,
    ByClient,
    Info,
    Method,
    Traffic,
    Uploads,
    weighted_sum,
)
from fedjax_rec.relations import add_blocks, draw_clients, elbow_group

__all__ = ["CoFedRecConfig", "cofedrec"]


@dataclass(frozen=True)
class CoFedRecConfig(CGFedRecConfig):
    """Options of CoFedRec: those of CGFedRec, with 30 clusters as in its release."""

    clusters: int = 30


class Server(NamedTuple):
    clusters: Any  # CGFedRec's server: the mean table, which is never sent, and its labels
    items: jax.Array  # [m, d] float32, mean of the last round's group
    group: ByClient  # [K] bool, who is in it


class Download(NamedTuple):
    labels: Any  # item clusters, as CGFedRec sends them to everybody
    items: jax.Array  # [m, d] float32, the group's mean, sent to its members alone


class Upload(NamedTuple):
    """What a client uploads.

    Attributes:
      items: [m, d] float32.
      joined: [] int32, 1 if it has downloaded the group's mean this round, else 0. Not sent: it is
        for the ledger, and the server knows it.
    """

    items: jax.Array
    joined: jax.Array


def cofedrec(config: CoFedRecConfig) -> Method:
    """Co-clustering: item clusters as in CGFedRec, and a group of users for one of them.

    Clients train as CGFedRec's do, by BCE + ρ·L_con under the server's item clusters, and keep
    their own tables. After each round the server clusters the mean table by k-means, draws one
    client and one item cluster, and sorts all clients by the sum of cosines between their and that
    client's embeddings of the cluster's items. Those before the elbow of the sorted curve are the
    group: their tables become the group's mean. The others keep theirs.

    A client that takes no part in a round is in no group of it. The server holds one group's mean:
    a member that takes no part in the next round has been scored on that mean, but misses it for
    its training, and trains on from its own.

    Args:
      config: options.

    Differs from the paper: in nothing known; where it leaves something open we follow its release,
    read from a public fork. There too the clusters of a round are those that the group is cut by
    and the next round's labels. An item cluster is drawn from those up to the last that has items.
    Items' rate η·m·80, where the release has η·m·80 − η. Several users a client, a head each.

    Reference:
      He et al., "Co-clustering for Federated Recommender System", WWW 2024, section 4.
    """
    base = cgfedrec(config)

    def init(key: jax.Array, problem: Problem) -> Server:
        clusters = base.init(key, problem)
        return Server(clusters, clusters.items, ByClient(jnp.zeros(problem.num_clients, bool)))

    def init_client(key: jax.Array, server: Server, num_users: int) -> Any:
        return base.init_client(key, server.clusters, num_users)

    def broadcast(server: Server) -> Broadcast:
        labels = base.broadcast(server.clusters).shared
        return Broadcast(Download(labels, server.items), per_client=server.group)

    def receive(key: jax.Array, client: Any, download: Broadcast, data: ClientData) -> Any:
        items = jnp.where(download.per_client, download.shared.items, client.items)
        return client._replace(items=items)

    def local_update(
        key: jax.Array, client: Any, download: Broadcast, data: ClientData
    ) -> tuple[Any, Upload, Info]:
        labels = Broadcast(download.shared.labels)
        client, items, info = base.local_update(key, client, labels, data)
        return client, Upload(items, jnp.int32(download.per_client)), info

    def reduce(acc: Any, uploads: Upload, weights: jax.Array) -> tuple[Any, jax.Array]:
        total, _ = weighted_sum(acc, uploads.items, weights)
        return total, uploads.joined

    def server_step(key: jax.Array, server: Server, reduced: Any, uploads: Uploads) -> Server:
        return server._replace(clusters=base.server_step(key, server.clusters, reduced))

    def between_rounds(rng: np.random.Generator, round_: int, server: Server) -> Server:
        return server._replace(clusters=base.between_rounds(rng, round_, server.clusters))

    def server_finish(key: jax.Array, server: Server, uploads: Uploads) -> Server:
        tables, present = uploads.values.items, uploads.client >= 0
        labels = server.clusters.labels.labels
        client_key, cluster_key = jax.random.split(key)
        cluster = jax.random.randint(cluster_key, (), 0, jnp.max(labels) + 1)
        chosen = draw_clients(client_key, uploads.client, 1)
        similar = _similarities(tables, present, chosen, labels == cluster)
        group = elbow_group(similar, present, uploads.client)
        return server._replace(items=_mean(tables, group), group=ByClient(group))

    def scores(client: Any, shared: Download, user: jax.Array) -> jax.Array:
        return base.scores(client, shared.labels, user)

    def traffic(download: Broadcast, upload: Upload, sent: int) -> Traffic:
        sent_to_all = base.traffic(Broadcast(download.shared.labels), upload.items, None)
        to_members = uplink.dense(download.shared.items) if sent else ()
        return sent_to_all._replace(down=(sent_to_all.down, to_members))

    def epsilon(upload: Upload, rounds: int) -> float | None:
        return config.epsilon(upload.items, rounds)

    return base._replace(
        name="cofedrec",
        init=init,
        init_client=init_client,
        broadcast=broadcast,
        receive=receive,
        local_update=local_update,
        reduce=reduce,
        server_step=server_step,
        between_rounds=between_rounds,
        server_finish=server_finish,
        keep_uploads=True,
        scores=scores,
        traffic=traffic,
        item_view=lambda server: base.item_view(server.clusters),
        epsilon=epsilon,
        diagnostics=lambda server: base.diagnostics(server.clusters),
        published_evaluation="download",
    )


def _similarities(tables, present, chosen, members):
    """[R] sums of cosines between all clients' and the chosen one's embeddings of some items."""

    def add(total, block, items):
        # A masked sum, not a row picked: rows are sharded, and only the sum travels.
        reference = jnp.sum(jnp.where(chosen[:, None, None], block, 0), axis=0)
        products = jnp.sum(block * reference, axis=-1)
        lengths = jnp.sqrt(jnp.sum(block * block, axis=-1) * jnp.sum(reference**2, axis=-1))
        cosines = jnp.where(lengths > 0, products / jnp.where(lengths > 0, lengths, 1), 0)
        return total + jnp.sum(jnp.where(members[items], cosines, 0), axis=-1)

    return add_blocks(add, jnp.zeros(len(present)), tables, present)


def _mean(tables, group):
    """[m, d], the mean of the group's tables."""

    def add(total, block, items):
        return total.at[items].add(jnp.sum(block, axis=0))

    return add_blocks(add, jnp.zeros(tables.shape[1:]), tables, group) / jnp.sum(group)
