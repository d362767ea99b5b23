"""Local training of the embedding methods against NumPy (SGD) and optax on dense gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods import Broadcast
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.methods.local_training import LocalTraining, continue_training, fresh_optimizers
from fedjax_rec.methods.shared_items import Change, Held
from fedjax_rec.models import MF, score
from tests.losses.reference import contrastive_gradient
from tests.methods import reference
from tests.problems import client_data, small

KEY = jax.random.key(11)
OPTIONS = {"dim": 4, "lr": 0.3, "item_lr_scale": 0.1, "batch_size": 8, "negatives": 2}
OPTIONS |= {"local_epochs": 2, "init_std": 1.0}
ITEMS = 40
LABELS = np.arange(ITEMS, dtype=np.int32) % 7


def _start(name: str, clients: int | None, **options):
    """A method, one of its clients as it starts a round, and what that client downloads."""
    problem = small(clients=clients)
    own = {"clusters": 7} if name == "cgfedrec" else {}
    method = methods.build(name, **{**OPTIONS, **own, **options})
    server = method.init(jax.random.key(1), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(2), server, users)
    # Users differ, as they do after a round: one head for all would hide a wrong slot.
    noise = iter(jax.random.split(jax.random.key(3), 9))
    private = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape), client[0])
    client = client._replace(**{client._fields[0]: private})
    download = method.broadcast(server)
    data = client_data(problem, 0)
    data = data._replace(longest=data.positives)
    return method, method.receive(KEY, client, download, data), download, data


def _run(method, client, download, data: ClientData):
    return jax.jit(method.local_update)(KEY, client, download, data)


def _table(items, download) -> np.ndarray:
    """The whole [m, d] table of a client that holds some rows of it, or sends their change."""
    if isinstance(items, tuple) and not items:  # between rounds
        return np.asarray(download.shared)
    if isinstance(items, Change):
        return np.asarray(download.shared.at[items.items].add(items.rows, mode="drop"))
    if isinstance(items, Held):
        return np.asarray(download.shared.at[items.items].set(items.rows, mode="drop"))
    return np.asarray(items)


@pytest.mark.parametrize(
    ("name", "clients"), [("pfedrec", None), ("pfedrec", 5), ("local", None), ("cgfedrec", 5)]
)
def test_two_steps_a_batch_against_numpy(name, clients) -> None:
    """The head first, then the items on a fresh forward pass."""
    method, client, download, data = _start(name, clients)
    trained, upload, info = _run(method, client, download, data)
    kernel, bias, items, loss = reference.train(
        client.head["kernel"],
        client.head["bias"],
        _table(client.items, download),
        reference.batches_of(KEY, data, ITEMS, method.config),
        lr=0.3,
        item_lr=0.3 * ITEMS * 0.1,
        user_first=True,
    )
    np.testing.assert_allclose(trained.head["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.head["bias"], bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(_table(trained.items, download), items, rtol=1e-4, atol=1e-5)
    assert float(info.loss) == pytest.approx(loss, rel=1e-5)
    assert np.abs(items - _table(client.items, download)).max() > 0.05  # the comparison sees a step
    if name != "local":
        sent, held = (_table(x, download) for x in (upload, trained.items))
        np.testing.assert_allclose(sent, held, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clients", [None, 5])
def test_joint_step_against_numpy(clients) -> None:
    """FedMF: user and items move together, from one forward pass."""
    method, client, download, data = _start("fedmf", clients)
    trained, upload, info = _run(method, client, download, data)
    embedding, _, items, loss = reference.train(
        client.user["embedding"],
        None,
        _table(client.items, download),
        reference.batches_of(KEY, data, ITEMS, method.config),
        lr=0.3,
        item_lr=0.3 * ITEMS * 0.1,
        user_first=False,
    )
    np.testing.assert_allclose(trained.user["embedding"], embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(_table(trained.items, download), items, rtol=1e-4, atol=1e-5)
    sent, held = (_table(x, download) for x in (upload, trained.items))
    np.testing.assert_allclose(sent, held, rtol=1e-6, atol=1e-6)
    assert float(info.loss) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("anchors", ["all", "positive"])
def test_cgfedrec_item_step_with_the_contrastive_gradient(anchors) -> None:
    method, client, download, data = _start("cgfedrec", None, contrast_weight=2.0, anchors=anchors)
    download = Broadcast(Labels(jnp.asarray(LABELS), jnp.bool_(True)))
    trained, _, info = _run(method, client, download, data)
    options = {"temperature": 0.1, "base_temperature": 0.5, "anchors": anchors}
    batches = reference.batches_of(KEY, data, ITEMS, method.config)
    kernel, _, items, loss = reference.train(
        client.head["kernel"],
        client.head["bias"],
        client.items,
        batches,
        lr=0.3,
        item_lr=0.3 * ITEMS * 0.1,
        user_first=True,
        table_gradient=lambda e: 2.0 * contrastive_gradient(e, LABELS, **options),
    )
    np.testing.assert_allclose(trained.items, items, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(trained.head["kernel"], kernel, rtol=1e-3, atol=1e-4)
    assert float(info.loss) == pytest.approx(loss, rel=1e-4)  # of the BCE alone
    untouched = np.setdiff1d(np.arange(ITEMS), np.concatenate([b.items for b in batches]))
    assert len(untouched)
    moved = np.abs(trained.items - client.items)[untouched].max()
    assert moved > 0.05  # only the contrastive term reaches these


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_without_labels_there_is_no_contrastive_term(optimizer) -> None:
    method, client, download, data = _start("cgfedrec", None, optimizer=optimizer)
    assert not bool(download.shared.known)
    plain, *_ = _start("local", None, optimizer=optimizer)
    trained, _, _ = _run(method, client, download, data)
    alone, _, _ = _run(plain, client, Broadcast(()), data)
    # Adam steps rows where there is nothing else, and rounds otherwise than on the whole table.
    tolerance = {"sgd": 0.0, "adam": 1e-5}[optimizer]
    same = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(same, tuple(trained), tuple(alone))

    without, *_ = _start("cgfedrec", None, optimizer=optimizer, contrast_weight=0.0)
    known = Broadcast(Labels(jnp.asarray(LABELS), jnp.bool_(True)))
    unweighted, _, _ = _run(without, client, known, data)
    jax.tree.map(same, tuple(unweighted), tuple(alone))


@pytest.mark.parametrize("name", ["pfedrec", "fedmf", "cgfedrec"])
def test_adam_against_optax_on_dense_gradients(name) -> None:
    method, client, download, data = _start(name, None, optimizer="adam", item_lr_scale=0.001)
    weight = 0.0
    if name == "cgfedrec":
        weight = method.config.contrast_weight
        download = Broadcast(Labels(jnp.asarray(LABELS), jnp.bool_(True)))
    trained, _, _ = _run(method, client, download, data)

    user, items = client[0], _table(client.items, download)
    user_rule, item_rule = optax.adam(0.3), optax.adam(0.3 * ITEMS * 0.001)

    def loss(user, items, batch):
        rows, labels, kept = batch
        if name == "fedmf":
            logits = items[rows] @ user["embedding"][0]
        else:
            logits = items[rows] @ user["kernel"][0] + user["bias"][0]
        each = optax.sigmoid_binary_cross_entropy(logits, labels)
        return jnp.sum(kept * each) / jnp.sum(kept)

    def step(user, items, user_state, item_state, batch, by_table):
        by_user, by_item = jax.grad(loss, argnums=(0, 1))(user, items, batch)
        change, user_state = user_rule.update(by_user, user_state)
        user = optax.apply_updates(user, change)
        if name != "fedmf":
            by_item = jax.grad(loss, argnums=1)(user, items, batch)
        change, item_state = item_rule.update(by_item + by_table, item_state)
        return user, optax.apply_updates(items, change), user_state, item_state

    options = {"temperature": 0.1, "base_temperature": 0.5, "anchors": "all"}
    step = jax.jit(step)
    state = user_rule.init(user), item_rule.init(items)
    for rows, _, labels in reference.batches_of(KEY, data, ITEMS, method.config):
        short = method.config.batch_size - len(labels)
        batch = (rows, labels, np.ones(len(labels)))
        batch = [np.pad(x, (0, short)).astype(x.dtype) for x in batch]
        by_table = weight * contrastive_gradient(items, LABELS, **options)
        user, items, *state = step(user, items, *state, batch, by_table.astype(np.float32))
    # Adam divides by the root of a mean square: where a gradient is near 0, so is its precision.
    np.testing.assert_allclose(_table(trained.items, download), items, atol=2e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), trained[0], user)
    assert np.abs(items - _table(client.items, download)).max() > 0.02


@pytest.mark.parametrize(
    ("name", "optimizer"), [("pfedrec", "adam"), ("cgfedrec", "sgd"), ("cgfedrec", "adam")]
)
def test_batches_of_padding_change_nothing(name, optimizer) -> None:
    """A client in a longer group, and a client with nothing at all: to the last bit."""
    method, client, download, data = _start(name, None, optimizer=optimizer)
    if name == "cgfedrec":
        download = Broadcast(Labels(jnp.asarray(LABELS), jnp.bool_(True)))
    update = jax.jit(method.local_update)
    alone = update(KEY, client, download, data)
    among = update(KEY, client, download, data._replace(longest=data.positives + 40))
    jax.tree.map(np.testing.assert_array_equal, alone, among)

    nobody = data._replace(positives=jnp.int32(0), longest=jnp.int32(40))
    same, _, info = update(KEY, client, download, nobody)
    same = same._replace(items=_table(same.items, download))
    client = client._replace(items=_table(client.items, download))
    jax.tree.map(np.testing.assert_array_equal, same, client)
    assert float(info.loss) == 0


@pytest.mark.parametrize(("optimizer", "user_first"), [("sgd", False), ("adam", True)])
def test_items_in_another_order_train_alike(optimizer, user_first) -> None:
    """A table in which items go by other names, their samples renamed: same rows, same users.

    The items' rate goes by the number of items that the caller names, not by the table's rows.
    """
    options = LocalTraining(**OPTIONS, optimizer=optimizer, weight_decay=0.01)
    data = client_data(small(clients=5), 0)
    data = data._replace(longest=data.positives)
    user_key, items_key = jax.random.split(jax.random.key(5))
    user = {"embedding": jax.random.normal(user_key, (data.num_users, 4))}
    items = jax.random.normal(items_key, (ITEMS, 4))
    place = np.random.default_rng(0).permutation(ITEMS + 9)[:ITEMS]  # among rows of nobody
    samples = draw_round(KEY, data, ITEMS, options.negatives)

    def objective(user, rows, batch):
        logits = score(MF(data.num_users), user, batch.users, rows)
        return binary_cross_entropy(logits, batch.labels, batch.mask)

    @jax.jit
    def train(table, samples):
        return continue_training(
            *(KEY, objective, user, table, fresh_optimizers(user, table, options), data, options),
            user_first=user_first,
            samples=samples,
            num_items=ITEMS,
        )

    plain = train(items, samples)
    table = jnp.ones((ITEMS + 9, 4)).at[place].set(items)
    renamed = train(table, samples._replace(items=jnp.asarray(place)[samples.items]))
    np.testing.assert_allclose(renamed.items[place], plain.items, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), renamed.user, plain.user
    )
    assert float(renamed.info.loss) == pytest.approx(float(plain.info.loss), rel=1e-5)
    assert np.abs(plain.items - items).max() > 0.05
