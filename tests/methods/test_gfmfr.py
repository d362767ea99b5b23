"""GFMFR's own backbone: a small network on FedRAP's tables, and what its groups are scored by."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import draw_round
from fedjax_rec.methods import Broadcast, Method
from fedjax_rec.methods.gfmfr import Server
from fedjax_rec.models import FusionNetwork
from tests.losses.reference import cross_entropy
from tests.problems import client_data, small

KEY = jax.random.key(11)
ITEMS, DIM = 40, 4
OPTIONS = {"dim": DIM, "lr": 0.3, "item_lr": 3.0, "batch_size": 512, "negatives": 2}
OPTIONS |= {"local_epochs": 1, "weight_decay": 0.02, "round_decay": 0.8, "network_decay": 0.7}
OPTIONS |= {"apart_weight": 0.3, "sparse_weight": 0.2, "init_std": 1.0, "fusion": "none"}


def build(**options: Any) -> Method:
    return methods.gfmfr(**{**OPTIONS, **options})


def start(method: Method, clients: int | None = None, passed: int = 3):
    """One of the method's clients, its download, its data."""
    problem = small(clients=clients)
    server = method.init(jax.random.key(1), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(2), server, users)
    data = client_data(problem, 0)
    download = Broadcast(server._replace(passed=jnp.int32(passed)))
    return client, download, data._replace(longest=data.positives)


def logits(user, network, items):
    """a·ReLU(W·[u, E_i] + b) + c, in the network's form on the wire: biases last."""
    first, output = np.asarray(network["layer_0"]), np.asarray(network["output"])[0]
    inputs = np.concatenate([np.broadcast_to(user, items.shape), items], axis=1)
    hidden = np.maximum(inputs @ first[:, :-1].T + first[:, -1], 0)
    return hidden @ output[:-1] + output[-1]


@pytest.mark.parametrize("clients", [None, 5])
def test_scores_by_hand(clients) -> None:
    method = build()
    client, download, data = start(method, clients)
    common, network = download.shared.shared
    trained, upload, _ = jax.jit(method.local_update)(KEY, client, download, data)
    for state, items, net in (
        (client, client.personal + common, network),  # between rounds: what all have in common
        (trained, trained.personal + upload.common, upload.network),  # in one: as trained
    ):
        for slot in range(len(client.user)):
            found = method.scores(state, download.shared, jnp.int32(slot))
            expected = logits(state.user[slot], net, np.asarray(items))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert method.retain(trained).trained == ()


def test_a_step_by_autodiff_on_whole_tables() -> None:
    method = build()
    client, download, data = start(method)
    trained, upload, info = jax.jit(method.local_update)(KEY, client, download, data)
    samples = draw_round(KEY, data, ITEMS, 2)
    kept = np.flatnonzero(samples.valid)
    items, labels = samples.items[kept], (kept % 3 == 0).astype(np.float32)
    level = np.tanh(0.3)

    def objective(user, personal, common, network):
        d, c = personal[items], common[items]
        first, output = network["layer_0"], network["output"][0]
        inputs = jnp.concatenate([jnp.broadcast_to(user, d.shape), d + c], axis=1)
        hidden = jax.nn.relu(inputs @ first[:, :-1].T + first[:, -1])
        x = hidden @ output[:-1] + output[-1]
        entropy = jnp.mean(jax.nn.softplus(x) - labels * x)
        apart, sparse = jnp.mean((d - c) ** 2), jnp.mean(jnp.abs(c))
        return entropy - 0.3 * level * apart + 0.2 * level * sparse

    common, network = download.shared.shared
    before = client.user, client.personal, common, network
    gradients = jax.grad(objective, argnums=(0, 1, 2, 3))(*before)
    rates = 0.3 * 0.7**3, 3.0 * 0.8**3, 3.0 * 0.8**3, 0.3 * 0.7**3
    after = trained.user, trained.personal, upload.common, upload.network
    for x, gradient, rate, found in zip(before, gradients, rates, after, strict=True):
        expected = jax.tree.map(lambda a, g, r=rate: a - r * (g + 0.02 * a), x, gradient)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
        )
    x = logits(client.user[0], network, np.asarray(client.personal + common)[items])
    assert float(info.loss) == pytest.approx(cross_entropy(x, labels, np.ones(len(x))), rel=1e-4)


def test_the_server_takes_plain_means_of_common_table_and_network() -> None:
    method = build()
    client, download, data = start(method)
    keys = jax.random.split(KEY, 3)
    _, uploads, _ = jax.vmap(lambda key: method.local_update(key, client, download, data))(keys)
    reduced, _ = method.reduce(None, uploads, jnp.array([1.0, 0.0, 1.0]))
    server = method.server_step(KEY, download.shared, reduced)
    expected = jax.tree.map(lambda x: (x[0] + x[2]) / 2, uploads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), server.shared, expected
    )
    assert int(server.passed) == 4


def test_clients_start_from_one_network_and_tables_of_their_own() -> None:
    method = build(init_std=0.5)
    server = method.init(KEY, small())
    one, other = (method.init_client(jax.random.key(k), server, 1) for k in (0, 1))
    for name in ("user", "personal"):
        a, b = getattr(one, name), getattr(other, name)
        assert np.abs(a - b).max() > 0.1
    assert np.std(one.personal) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("scorer", ["output", "network"])
def test_who_scores_a_groups_items(scorer) -> None:
    """Through the server's own steps, with everyone in one group."""
    method = build(
        scorer=scorer,
        fusion="gfmfr",
        modality=("text=text",),
        fusion_groups=1,
        fusion_hidden=4,
        fusion_epochs=2,
    )
    problem = small()
    server = method.init(jax.random.key(1), problem)
    client = method.init_client(jax.random.key(2), server, 1)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    download = method.broadcast(server)._replace(per_client=jnp.int32(-1))
    _, upload, _ = jax.jit(method.local_update)(KEY, client, download, data)
    values = jax.tree.map(lambda x: jnp.stack([x, x]), upload)
    uploads = methods.Uploads(values, jnp.array([4, 9], jnp.int32))
    server = server._replace(labels=server.labels.at[jnp.array([4, 9])].set(0))
    done = jax.jit(method.server_finish)(
        KEY, server._replace(group=methods.ByClient(jnp.array([-1, -1]))), uploads
    )
    # The fused table itself is not kept: read it back from the fusion network.
    table = FusionNetwork(1, DIM, 4, "mlp").apply({"params": done.network}, server.content)[0]
    table = np.asarray(table) * np.sqrt(np.mean(np.asarray(upload.own.common) ** 2))
    if scorer == "output":
        row = np.asarray(upload.own.network["output"])[0]
        expected = table @ row[:-1] + row[-1]
        assert upload.user == ()
    else:
        expected = logits(np.asarray(upload.user)[0], upload.own.network, table)
    np.testing.assert_allclose(done.preferences[0], 1 / (1 + np.exp(-expected)), rtol=1e-4)


def test_noise_reaches_every_number_that_is_sent() -> None:
    method = build(clip=1.0, laplace=0.1)
    client, download, data = start(method)
    _, upload, _ = jax.jit(method.local_update)(KEY, client, download, data)
    noised = method.uplink.apply(KEY, upload)
    jax.tree.map(lambda a, b: np.testing.assert_array_less(0, np.abs(a - b)), noised, upload)
    parts = [method.config.epsilon(x, 3) for x in jax.tree.leaves(upload)]
    assert method.epsilon(upload, 3) == pytest.approx(sum(parts))
    assert build().epsilon(upload, 3) is None


def test_defaults_are_the_releases() -> None:
    config = methods.gfmfr().config
    assert (config.dim, config.lr, config.batch_size, config.local_epochs) == (64, 0.01, 256, 5)
    assert config.items_rate(1682) == pytest.approx(16.82)
    assert (config.round_decay, config.network_decay, config.step_decay) == (0.9, 0.8, 1.0)
    assert (config.weight_decay, config.negatives, config.tolerance) == (1e-4, 4, 0.0)
    assert (config.fusion, config.fusion_groups, config.fusion_grouping) == (
        *("gfmfr", 5, "spectral"),
    )
    assert (config.fusion_network, config.fusion_epochs, config.fusion_memory) == ("mlp", 50, 0.9)
    assert config.fusion_schedule == "cosine"


def test_a_server_is_its_own_download() -> None:
    method = build()
    server = method.init(KEY, small())
    assert isinstance(method.broadcast(server).shared, Server)
    sent = method.traffic(method.broadcast(server), server.shared, None)
    values = ITEMS * DIM + DIM * (2 * DIM + 1) + DIM + 1
    for forms in (sent.up, sent.down):
        leaves = jax.tree.leaves(forms, is_leaf=lambda x: hasattr(x, "value_bits"))
        assert sum(form.values for form in leaves) == values
