"""GFMFR's fusion on its backbones: what it adds, what it leaves alone, and who counts."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods, uplink
from fedjax_rec.batches import draw_round
from fedjax_rec.data import MissingSemanticsWarning
from fedjax_rec.errors import InputError
from fedjax_rec.losses import bernoulli_kl, binary_cross_entropy
from fedjax_rec.methods import Broadcast, ByClient, Method, Uploads
from fedjax_rec.methods.fusion import Upload, fuse
from fedjax_rec.methods.fusion_options import Fusion, load_content
from fedjax_rec.methods.shared_items import Change
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small

KEY = jax.random.key(5)
BACKBONES = ("pfedrec", "fedmf", "fedncf", "fedrap", "gfmfr")
ITEMS, USERS, GROUPS = 40, 25, 3
TRAINING = {"dim": 4, "batch_size": 16, "negatives": 2, "local_epochs": 1}
RATES = {
    "fedrap": {"item_lr": 2.0},
    "gfmfr": {"item_lr": 1.0, "lr": 0.1},
    "fedncf": {"lr": 0.01, "item_lr": 0.01},
}
FUSION = {"fusion": "gfmfr", "modality": ("text=text",), "fusion_groups": GROUPS}
FUSION |= {"fusion_hidden": 8, "fusion_epochs": 3, "fusion_grouping": "kmeans"}


def build(name: str, **options: Any) -> Method:
    own = {"item_lr": 0.5, **RATES.get(name, {})}
    return methods.build(name, **{**TRAINING, **own, **FUSION, **options})


@cache
def federation(clients: int | None = None):
    return small(USERS, ITEMS, clients=clients)


def taught(method: Method, client: int = 3, group: int = 1, clients: int | None = None, **state):
    """A client's first round with a group preference: (state, download, data)."""
    problem = federation(clients)
    server = method.init(jax.random.key(1), problem)
    preferences = jax.random.uniform(jax.random.key(2), (GROUPS, ITEMS), minval=0.6, maxval=0.95)
    server = server._replace(preferences=preferences, passed=jnp.int32(4))
    users = int(problem.users_per_client.max())
    mine = method.init_client(jax.random.key(3), server, users)._replace(**state)
    download = method.broadcast(server)._replace(per_client=jnp.int32(group))
    data = client_data(problem, client)
    return mine, download, data._replace(longest=data.positives)


@pytest.mark.parametrize("name", BACKBONES)
def test_off_is_the_backbone_itself(name) -> None:
    plain = methods.build(name, **TRAINING, fusion="none")
    assert not plain.keep_uploads
    assert plain.server_finish is None
    assert fuse(plain, plain.config, backbone=None) is plain  # type: ignore[arg-type]
    problem = federation()
    server = plain.init(jax.random.key(1), problem)
    client = plain.init_client(jax.random.key(3), server, 1)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    download = plain.broadcast(server)
    upload = jax.eval_shape(plain.local_update, KEY, client, download, data)[1]
    if name in ("pfedrec", "fedmf"):  # touched rows, as ever
        assert isinstance(upload, Change)
    # No teacher, no trace of one.
    plainly = jax.make_jaxpr(plain.local_update)(KEY, client, download, data)
    assert "preference" not in str(plainly)
    assert str(plainly) == str(
        jax.make_jaxpr(lambda *x: plain.local_update(*x, None))(KEY, client, download, data)
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_without_weight_the_backbone_trains_as_alone(name) -> None:
    method, alone = build(name, fusion_weight=0.0), build(name, fusion="none", modality=())
    client, download, data = taught(method)
    fused, _, info = jax.jit(method.local_update)(KEY, client, download, data)
    own, _, own_info = jax.jit(alone.local_update)(
        KEY, client.own, Broadcast(download.shared.own), data
    )
    assert float(info.loss) == pytest.approx(float(own_info.loss), rel=1e-5)
    found = method.scores(fused, download.shared, jnp.int32(0))
    expected = alone.scores(own, download.shared.own, jnp.int32(0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_step_against_the_whole_objective() -> None:
    """FedMF, one batch: BCE + η·KL, with η made of the losses before it, by autodiff on all."""
    method = build("fedmf", batch_size=512, fusion_limit=1e3, fusion_weight=0.7)
    client, download, data = taught(method, ratio=jnp.float32(2.0))
    trained, upload, info = jax.jit(method.local_update)(KEY, client, download, data)
    items, p = download.shared.own, download.shared.preferences[1]
    samples = draw_round(KEY, data, ITEMS, 2)
    labels = (jnp.arange(len(samples.items)) % 3 == 0).astype(jnp.float32)

    def losses(user, items):
        logits = items[samples.items] @ user[0]
        return (
            binary_cross_entropy(logits, labels, samples.valid),
            bernoulli_kl(logits, p[samples.items], samples.valid),
        )

    user = client.own.user["embedding"]
    entropy, divergence = losses(user, items)
    ratio = 0.9 * 2.0 + 0.1 * entropy / divergence
    weight = 0.7 * np.cos(np.pi * 4 / 200) * ratio
    by_user, by_items = jax.grad(lambda *x: losses(*x)[0] + weight * losses(*x)[1], argnums=(0, 1))(
        user, items
    )
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(trained.own.user["embedding"], user - 0.1 * by_user, **close)
    np.testing.assert_allclose(upload.own, items - 0.5 * by_items, **close)
    assert float(trained.ratio) == pytest.approx(float(ratio), rel=1e-4)
    assert float(info.loss) == pytest.approx(float(entropy), rel=1e-5)  # of the labels alone


@pytest.mark.parametrize("name", BACKBONES)
def test_the_preference_pulls(name) -> None:
    """Predictions of the round's items end nearer to the preference than without it."""
    method, without = build(name, fusion_weight=2.0), build(name, fusion_weight=0.0)
    client, download, data = taught(method)
    p = download.shared.preferences[1]
    far = []
    for each in (method, without):
        trained, _, _ = jax.jit(each.local_update)(KEY, client, download, data)
        logits = each.scores(trained, download.shared, jnp.int32(0))
        samples = draw_round(KEY, data, ITEMS, 2)
        far.append(float(bernoulli_kl(logits[samples.items], p[samples.items], samples.valid)))
    assert far[0] < far[1] - 1e-5


def test_without_a_group_nothing_pulls_and_nothing_is_remembered() -> None:
    method, none = build("pfedrec"), build("pfedrec", fusion_weight=0.0)
    client, download, data = taught(method, group=-1, ratio=jnp.float32(0.3))
    update = jax.jit(method.local_update)
    trained, upload, _ = update(KEY, client, download, data)
    _, plain, _ = jax.jit(none.local_update)(KEY, client, download, data)
    np.testing.assert_array_equal(upload.own, plain.own)
    assert float(trained.ratio) == pytest.approx(0.3)
    with_group, pulled, _ = update(KEY, client, download._replace(per_client=jnp.int32(0)), data)
    assert np.abs(pulled.own - upload.own).max() > 1e-3
    assert float(with_group.ratio) != pytest.approx(0.3)


def test_a_silo_sends_the_mean_of_its_users_heads() -> None:
    method = build("pfedrec")
    client, download, data = taught(method, clients=4)
    head = jax.tree.map(
        lambda x: x + jax.random.normal(jax.random.key(7), x.shape), client.own.head
    )
    client = client._replace(own=client.own._replace(head=head))
    trained, upload, _ = jax.jit(method.local_update)(KEY, client, download, data)
    users = np.unique(data.users[: int(data.positives)])
    rows = np.column_stack([trained.own.head["kernel"], trained.own.head["bias"]])
    assert len(users) > 1
    np.testing.assert_allclose(upload.user[0], rows[users].mean(axis=0), rtol=1e-5)


class Round:
    """A server before a round, and the uploads of clients 5, nobody, 2, 7, 0, 3 in these rows."""

    client = np.array([5, -1, 2, 7, 0, 3])

    def __init__(self, method: Method) -> None:
        rng = np.random.default_rng(0)
        server = method.init(jax.random.key(1), federation())
        labels = np.full(USERS, -1, np.int32)
        labels[[5, 2, 9]] = 2, 0, 1
        self.row_labels = np.where(self.client >= 0, labels[self.client], 1).astype(np.int32)
        self.server = server._replace(
            labels=jnp.array(labels), group=ByClient(jnp.array(self.row_labels))
        )
        tables = rng.normal(size=(6, ITEMS, 4)).astype(np.float32)
        heads = rng.normal(size=(6, 1, 5)).astype(np.float32)
        heads[[0, 3]] += 20  # clients 5 and 7
        heads[[2]] -= 20  # client 2
        tables[1] = heads[1] = np.nan
        self.tables, self.heads = tables, heads

    def run(self, method: Method, order: Any) -> Any:
        """The server after the round, with the rows in another order."""
        values = method_upload(self.tables[order], self.heads[order])
        uploads = Uploads(values, jnp.array(self.client[order], jnp.int32))
        server = self.server._replace(group=ByClient(jnp.array(self.row_labels[order])))
        clean = jax.tree.map(lambda x: jnp.nan_to_num(x), values)
        weights = (uploads.client >= 0).astype(jnp.float32)
        assert method.accumulator is not None
        reduced, _ = method.reduce(method.accumulator(server), clean, weights)
        server = jax.jit(method.server_step)(KEY, server, reduced, uploads)
        server = method.between_rounds(np.random.default_rng(0), 1, server)
        return jax.jit(method.server_finish)(KEY, server, uploads)


def method_upload(tables, heads):
    return Upload(jnp.array(tables), jnp.array(heads))


def test_the_server_groups_and_averages_those_who_took_part() -> None:
    method = build("pfedrec")
    scene = Round(method)
    server = scene.run(method, np.arange(6))
    labels = np.asarray(server.labels)
    assert labels[5] == labels[7] == 2  # 5 has kept its name, and 7 is like it
    assert labels[2] == 0
    assert labels[0] == labels[3] == 1
    assert labels[9] == 1  # took no part
    assert (np.delete(labels, [5, 7, 2, 0, 3, 9]) == -1).all()
    np.testing.assert_array_equal(server.group.rows, [2, 1, 0, 2, 1, 1])  # row 1: as before
    assert (np.asarray(server.heads) == 0).all()
    assert int(server.passed) == 1

    # Preferences: the mean head of each group on what the network makes of its mean table.
    model_error = float(server.error)
    assert 0 < model_error < 10
    again = scene.run(method, np.arange(6))
    np.testing.assert_array_equal(again.preferences, server.preferences)
    assert np.isfinite(server.preferences).all()


def test_the_order_of_clients_does_not_matter() -> None:
    method = build("pfedrec")
    scene = Round(method)
    plain, order = scene.run(method, np.arange(6)), np.array([3, 5, 0, 1, 4, 2])
    moved = scene.run(method, order)
    np.testing.assert_array_equal(moved.labels, plain.labels)
    np.testing.assert_array_equal(moved.group.rows, np.asarray(plain.group.rows)[order])
    np.testing.assert_allclose(moved.preferences, plain.preferences, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved.own.items, plain.own.items, rtol=1e-5, atol=1e-6)


def test_alike_clients_are_one_group() -> None:
    method = build("pfedrec")
    scene = Round(method)
    scene.tables[:], scene.heads[:] = scene.tables[0], scene.heads[0]
    server = scene.run(method, np.arange(6))
    assert len(set(np.asarray(server.labels)[[5, 2, 7, 0, 3]])) == 1
    # Groups of nobody prefer what they did before: nothing yet.
    known = np.unique(server.labels[5])
    np.testing.assert_array_equal(np.delete(server.preferences, known, axis=0), 0)


# One that uploads a network, one with a server of its own: each compiles twice.
@pytest.mark.parametrize("name", ["fedncf", "gfmfr"])
def test_rounds_of_cohorts_on_one_device_and_two(name, two_devices) -> None:
    method = build(name)
    found = []
    for devices in (1, 2):
        engine = Engine(method, federation(), client_mesh(devices), cohort=9, chunk=4, seed=2)
        state = engine.initial_state()
        sizes = []
        for number in (1, 2):
            state, outcome = engine.run_round(state, number)
            assert np.isfinite(outcome.train_loss)
            sizes.append(outcome.bytes)
        server = engine.server_state(state)
        ratio = engine.client_states(state).ratio
        found.append((server.labels, ratio, server.preferences))
        np.testing.assert_array_equal(server.group.rows, server.labels)
        taken = server.labels >= 0
        assert 9 < taken.sum() < USERS  # two cohorts, not all clients
        assert set(np.unique(server.labels[taken])) <= set(range(GROUPS))
        assert (ratio[~taken] == 0).all()
        assert (ratio > 0).any()  # only clients of both rounds had a group to be taught by
        # A group's preference comes down from the second round on.
        assert sizes[1].down - sizes[0].down == 4 * ITEMS
    np.testing.assert_array_equal(found[0][0], found[1][0])
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_what_travels_more_than_the_backbones() -> None:
    method, alone = build("pfedrec"), build("pfedrec", fusion="none", modality=())
    client, download, data = taught(method)
    upload = jax.eval_shape(method.local_update, KEY, client, download, data)[1]
    sent = method.traffic(download, upload, None)
    plain = alone.traffic(Broadcast(download.shared.own), upload.own, None)

    def total(forms):
        leaves = jax.tree.leaves(forms, is_leaf=lambda x: isinstance(x, uplink.WireFormat))
        return sum(form.bytes for form in leaves)

    assert total(sent.up) - total(plain.up) == 4 * 5  # a head
    assert total(sent.down) - total(plain.down) == 4 * ITEMS  # a preference
    assert method.epsilon(upload, 2) is None
    noisy = build("pfedrec", clip=1.0, laplace=0.5)
    rows = noisy.config.epsilon(upload.own, 2), noisy.config.epsilon(upload.user, 2)
    assert noisy.epsilon(upload, 2) == pytest.approx(sum(rows))


def test_content_is_centred_and_scaled(tmp_path) -> None:
    dataset = federation().dataset
    rng = np.random.default_rng(0)
    vectors = {"a": 5 + 3 * rng.normal(size=(ITEMS, 6)), "b": 1e-3 * rng.normal(size=(ITEMS, 2))}
    for name, array in vectors.items():
        np.savez(tmp_path / f"{name}.npz", item_id=dataset.item_ids, embedding=array)
    entries = tuple(f"{name}={tmp_path / name}.npz" for name in vectors)
    content = load_content(Fusion("gfmfr", entries), dataset)
    for found, array in zip(content, vectors.values(), strict=True):
        assert found.dtype == np.float32
        centred = array - array.mean(axis=0)
        np.testing.assert_allclose(found, centred / np.sqrt((centred**2).mean()), atol=1e-5)


def test_items_without_a_vector_get_the_mean_and_are_counted(tmp_path) -> None:
    dataset = federation().dataset
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 3))
    path = tmp_path / "some.npz"
    np.savez(path, item_id=dataset.item_ids[: ITEMS - 7], embedding=vectors[: ITEMS - 7])
    with pytest.warns(MissingSemanticsWarning, match="7 of 40 items"):
        (content,) = load_content(Fusion("gfmfr", (f"image={path}",)), dataset)
    np.testing.assert_allclose(content[-7:], 0, atol=1e-6)


WRONG = [
    ("pfedrec", {"fusion": "mmfr"}, "fusion='mmfr' is unknown"),
    ("pfedrec", {"fusion_groups": 0}, "fusion_groups=0 must be at least 1"),
    ("pfedrec", {"fusion_grouping": "dbscan"}, "fusion_grouping='dbscan'"),
    ("pfedrec", {"fusion_network": "moe"}, "fusion_network='moe'"),
    ("pfedrec", {"fusion_schedule": "sine"}, "fusion_schedule='sine'.*cosine"),
    ("pfedrec", {"fusion_pca": 95.0}, "fusion_pca=95.0 must be a share"),
    ("pfedrec", {"fusion_memory": 1.0}, "fusion_memory=1.0"),
    ("pfedrec", {"fusion_limit": 0.0}, "fusion_limit=0.0 must be a positive number"),
    ("pfedrec", {"fusion_lr": -1.0}, "fusion_lr=-1.0 must be a finite number"),
    ("pfedrec", {"modality": ("text",)}, "modality='text' is not of the form NAME=SOURCE"),
    ("pfedrec", {"modality": ("a=x.npz", "a=y.npz")}, "give each a name of its own"),
    ("pfedrec", {"fusion": "none"}, "is not read without fusion"),
    ("pfedrec", {"upload": "rows"}, "upload='rows' .* fusion needs whole tables"),
    ("fedmf", {"loss": "mse"}, "needs predicted probabilities: use loss='bce'"),
    ("gfmfr", {"scorer": "hidden"}, "scorer='hidden' is unknown"),
    ("gfmfr", {"network_decay": 0.0}, "network_decay=0.0"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options(name, options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        build(name, **options)
    assert "\n" not in str(error.value)


MISSING = [
    ((), "fusion='gfmfr' needs to know what the items are like: give modality"),
    (("text=nowhere.npz",), "nowhere.npz"),
    (("text=word2vec",), "modality 'text=word2vec' cannot be used with synthetic"),
]


@pytest.mark.parametrize(("modality", "message"), MISSING)
def test_modalities_that_are_not_there(modality, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        build("fedmf", modality=modality).init(KEY, federation())
    assert "\n" not in str(error.value)
