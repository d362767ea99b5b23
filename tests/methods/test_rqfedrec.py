"""A client's round of RQFedRec: what channels, options and ablations change, and what they do not.

What the server does is in ``test_rqfedrec_server.py``.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import ClientData, draw_round
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.methods.codebook_fit import Channel, Channels, fit_codebooks, rebuild
from fedjax_rec.simulation.ledger import round_bytes
from tests.methods import reference
from tests.problems import client_data, small

KEY = jax.random.key(7)
ITEMS, LEVELS, WORDS, DIM = 40, 2, 8, 4
OPTIONS = {"dim": DIM, "levels": LEVELS, "codewords": WORDS, "batch_size": 8, "negatives": 1}
OPTIONS |= {"local_epochs": 2, "lr": 0.05, "item_lr": 0.05, "init_std": 0.3, "fit_steps": 5}
OPTIONS |= {"recode_every": 3, "warmup": 5, "weight_decay": 0.0}
# One level with a codeword for each item: codebooks are tables of items then. The items' rate goes
# by the number of all items.
BY_ITEMS = {"item_lr": None, "item_lr_scale": 0.03}
A_CODEWORD_AN_ITEM = {"levels": 1, "codewords": ITEMS, **BY_ITEMS}
DIRECT = {"clients": 6, "without": "item-embeddings", "optimizer": "sgd"}
DIRECT |= {"lr": 0.3, "item_lr": 0.4, "weight_decay": 0.1}
FEDMF = {k: v for k, v in OPTIONS.items() if hasattr(methods.fedmf().config, k)}
FEDMF |= {"optimizer": "adam"}
same = np.testing.assert_array_equal


class Start(NamedTuple):
    """A method, its compiled local training, and a client that starts a round of it."""

    method: Method
    update: Callable[..., Any]
    server: Any
    client: Any
    data: ClientData

    def round(self, server: Any = None, key: jax.Array = KEY, data: ClientData | None = None):
        """(client, upload, info) after local training."""
        server = self.server if server is None else server
        download = self.method.broadcast(server)
        return self.update(key, self.client, download, self.data if data is None else data)


@cache
def built(**options: Any) -> tuple[Method, Callable[..., Any]]:
    """A method at toy size and its jitted local training, compiled once for all tests."""
    method = methods.build("rqfedrec", **{**OPTIONS, **options})
    return method, jax.jit(method.local_update)


def start(weight: float = 0.4, *, clients: int | None = None, **options: Any) -> Start:
    """A client as it starts a round in which the collaborative channel has a given share."""
    method, update = built(**options)
    problem = small(clients=clients)
    server = method.init(jax.random.key(1), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(2), server, users)
    data = client_data(problem, 3)
    server = server._replace(
        channels=Channels(channel(method, 3), channel(method, 4), jnp.float32(weight)),
        coded=jnp.bool_(True),
    )
    return Start(method, update, server, client, data._replace(longest=data.positives))


def channel(method: Method, seed: int) -> Channel:
    """A channel with random codewords and codes."""
    rng = np.random.default_rng(seed)
    config = method.config
    book = 0.3 * rng.normal(size=(config.levels, config.codewords, config.dim))
    codes = rng.integers(0, config.codewords, (ITEMS, config.levels))
    return Channel(jnp.asarray(book, jnp.float32), jnp.asarray(codes, jnp.uint8))


def replaced(server: Any, **channels: Channel) -> Any:
    return server._replace(channels=server.channels._replace(**channels))


def a_table(run: Start) -> Any:
    """The server with the semantic channel's codewords for the items' own embeddings; λ = 0."""
    codes = jnp.arange(ITEMS, dtype=jnp.uint8)[:, None]
    semantic = run.server.channels.semantic._replace(codes=codes)
    return run.server._replace(
        channels=run.server.channels._replace(semantic=semantic, weight=jnp.float32(0))
    )


# Channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, DIRECT])
@pytest.mark.parametrize(("weight", "alive"), [(0.0, 0), (1.0, 1)])
def test_a_channel_without_weight_has_no_say(weight, alive, options) -> None:
    """λ = 0 ignores the collaborative channel and λ = 1 the semantic one, to the last bit."""
    run = start(weight, **options)
    name = Channels._fields[1 - alive]
    other = channel(run.method, 99)
    if not options:
        other = other._replace(codebook=jnp.full_like(other.codebook, jnp.nan))
    servers = [run.server, replaced(run.server, **{name: other})]
    rounds = [run.round(server) for server in servers]
    (client, upload, info), (same_client, same_upload, same_info) = rounds
    jax.tree.map(same, (client, info), (same_client, same_info))
    same(upload[alive].codebook, same_upload[alive].codebook)
    assert (upload[alive].codebook != run.server.channels[alive].codebook).any()
    for server, (_, sent, _) in zip(servers, rounds, strict=True):
        same(sent[1 - alive].codebook, server.channels[1 - alive].codebook)
    scores = [
        run.method.scores(client, run.method.broadcast(server).shared, 0) for server in servers
    ]
    same(*scores)


def test_in_between_both_channels_count() -> None:
    run = start(0.4)
    client, upload, _ = run.round()
    for name, sent in zip(Channels._fields, upload, strict=False):
        assert (sent.codebook != getattr(run.server.channels, name).codebook).any()
        other = replaced(run.server, **{name: channel(run.method, 99)})
        assert (run.round(other)[0].items.rows != client.items.rows).any()


@pytest.mark.parametrize(("clients", "fit_items"), [(None, "each"), (6, "samples")])
def test_with_a_codeword_an_item_a_client_uploads_what_fedmf_does(clients, fit_items) -> None:
    """The dense form: the same users and touched rows, while the other rows stay."""
    run = start(clients=clients, fit_items=fit_items, **A_CODEWORD_AN_ITEM)
    server = a_table(run)
    client, upload, info = run.round(server)
    # Clipping, which comes after local training, is what makes FedMF train and send whole tables.
    fedmf = methods.fedmf(**{**FEDMF, **BY_ITEMS}, clip=1.0)
    table = server.channels.semantic.codebook[0]
    twin = fedmf.init(KEY, small())._replace(items=table)
    users = client.user["embedding"].shape[0]
    other = fedmf.init_client(jax.random.key(2), twin, users)._replace(items=table)
    same(other.user["embedding"], run.client.user["embedding"])
    trained, items, expected = jax.jit(fedmf.local_update)(
        KEY, other, fedmf.broadcast(twin), run.data
    )
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(client.user["embedding"], trained.user["embedding"], **close)
    assert float(info.loss) == pytest.approx(float(expected.loss), rel=1e-5)
    touched = np.asarray(client.items.items)
    touched = touched[touched < ITEMS]
    np.testing.assert_allclose(client.items.rows[: len(touched)], items[touched], **close)
    np.testing.assert_allclose(upload.semantic.codebook[0, touched], items[touched], **close)
    untouched = np.setdiff1d(np.arange(ITEMS), touched)
    same(upload.semantic.codebook[0, untouched], table[untouched])
    assert np.abs(items - table).max() > 0.05
    assert clients or len(untouched)


@pytest.mark.parametrize("fit_items", ["each", "samples"])
def test_codebooks_are_fitted_to_the_trained_rows(fit_items) -> None:
    """Each touched item counts once, or as often as it was among the samples."""
    run = start(fit_items=fit_items)
    client, upload, _ = run.round()
    samples = draw_round(KEY, run.data, ITEMS, run.method.config.negatives)
    counts = np.bincount(np.asarray(samples.items)[np.asarray(samples.valid)], minlength=ITEMS)
    touched = np.asarray(client.items.items)
    touched = touched[touched < ITEMS]
    same(touched, np.flatnonzero(counts))
    assert counts.max() > 1
    own = [c._replace(codes=c.codes[touched]) for c in run.server.channels[:2]]
    importance = counts[touched] if fit_items == "samples" else np.ones(len(touched))
    expected = fit_codebooks(
        Channels(*own, run.server.channels.weight),
        client.items.rows[: len(touched)],
        jnp.asarray(importance, jnp.float32),
        run.method.config,
    )
    for sent, book in zip(upload, expected, strict=True):
        np.testing.assert_allclose(sent.codebook, book, rtol=1e-4, atol=1e-5)


def test_untouched_items_are_scored_as_downloaded() -> None:
    run = start()
    shared = run.method.broadcast(run.server).shared
    np.testing.assert_allclose(shared.items, rebuild(run.server.channels), rtol=1e-6)
    client, *_ = run.round()
    items, touched = np.array(shared.items), np.asarray(client.items.items)
    kept = touched < ITEMS
    items[touched[kept]] = np.asarray(client.items.rows)[kept]
    user = np.asarray(client.user["embedding"])[0]
    found = run.method.scores(client, shared, 0)
    np.testing.assert_allclose(found, items @ user, rtol=1e-5, atol=1e-6)
    between = run.method.scores(run.method.retain(client), shared, 0)
    np.testing.assert_allclose(between, shared.items @ user, rtol=1e-5, atol=1e-6)
    assert np.abs(found - between).max() > 1e-3


@pytest.mark.parametrize("weighting", ["data", "touched"])
def test_a_client_without_data_sends_back_what_it_got(weighting) -> None:
    run = start(weighting=weighting)
    nobody = run.data._replace(positives=jnp.int32(0), longest=jnp.int32(9))
    client, upload, info = run.round(data=nobody)
    same(client.user["embedding"], run.client.user["embedding"])
    assert float(info.loss) == 0
    assert float(run.method.weight(nobody)) == 0
    for sent, own in zip(upload, run.server.channels, strict=False):
        same(sent.codebook, own.codebook)
        assert weighting == "data" or not sent.present.any()


def test_present_are_the_codewords_of_touched_items() -> None:
    run = start(weighting="touched")
    client, upload, _ = run.round()
    touched = np.asarray(client.items.items)
    touched = touched[touched < ITEMS]
    for sent, own in zip(upload, run.server.channels, strict=False):
        used = np.zeros((LEVELS, WORDS), bool)
        for level in range(LEVELS):
            used[level, np.asarray(own.codes)[touched, level]] = True
        assert not used.all()
        same(sent.present, used)
        moved = (np.asarray(sent.codebook) != own.codebook).any(axis=-1)
        same(moved, used)


# Noise --------------------------------------------------------------------------------------------


def test_noise_is_on_the_upload_and_not_on_the_users() -> None:
    scale = 0.5
    options = {"fit_items": "each", **A_CODEWORD_AN_ITEM}
    silent, noisy = start(**options), start(noise=scale, **options)
    server = a_table(silent)
    client, upload, info = silent.round(server)
    noisy_client, noisy_upload, noisy_info = noisy.round(server)
    jax.tree.map(same, (client, info), (noisy_client, noisy_info))
    touched = np.asarray(client.items.items)
    touched = touched[touched < ITEMS]
    noise = np.asarray(noisy_upload.semantic.codebook - upload.semantic.codebook)[0]
    untouched = np.setdiff1d(np.arange(ITEMS), touched)
    assert not noise[untouched].any()
    # Laplace(0, δ) has the mean absolute value δ; of n values its standard error is δ/√n.
    values = np.abs(noise[touched])
    assert values.mean() == pytest.approx(scale, rel=4 / values.size**0.5)
    jax.tree.map(same, noisy.round(server)[1], noisy_upload)
    other = noisy.round(server, jax.random.key(8))[1]
    assert (other.semantic.codebook != noisy_upload.semantic.codebook).any()


# Ablations ----------------------------------------------------------------------------------------


def test_without_codebooks_it_is_fedmf() -> None:
    options = {**FEDMF, "weight_decay": 0.01, "bits": 4}
    plain = methods.fedmf(**options, laplace=0.1)
    ablated = methods.rqfedrec(**{**OPTIONS, **options}, noise=0.1, without="codebooks")
    assert (ablated.name, ablated.config.without) == ("rqfedrec", "codebooks")
    problem, data = small(), start().data

    def a_round(method, key, data):
        server = method.init(key, problem)
        download = method.broadcast(server)
        client = method.receive(key, method.init_client(key, server, 1), download, data)
        client, upload, info = method.local_update(key, client, download, data)
        scores = method.scores(client, download.shared, 0)
        reduced, _ = method.reduce(
            None,
            jax.tree.map(lambda x: x[None], method.uplink.apply(key, upload)),
            method.weight(data)[None],
        )
        return client, upload, info, scores, method.server_step(key, server, reduced)

    rounds = [jax.jit(partial(a_round, method))(KEY, data) for method in (plain, ablated)]
    jax.tree.map(same, *rounds)
    sent = [
        round_bytes(m, m.broadcast(rounds[0][-1]), rounds[0][1], clients=1)
        for m in (plain, ablated)
    ]
    assert sent[0] == sent[1]


@jax.jit
def step(user, books, channels, batch):
    """One step of SGD on BCE in the users and in whole codebooks, by autodiff."""

    def loss(user, books):
        items, users, labels, kept = batch
        own = [c._replace(codebook=b) for c, b in zip(channels[:2], books, strict=True)]
        rows = rebuild(Channels(*own, channels.weight))[items]
        logits = jnp.sum(user[users] * rows, axis=1)
        each = optax.sigmoid_binary_cross_entropy(logits, labels)
        return jnp.sum(kept * each) / jnp.sum(kept)

    gradients = jax.grad(loss, argnums=(0, 1))(user, books)

    def descend(rate, x, gradient):
        return x - DIRECT[rate] * (gradient + DIRECT["weight_decay"] * x)

    books = [descend("item_lr", *pair) for pair in zip(books, gradients[1], strict=True)]
    return descend("lr", user, gradients[0]), books


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_without_item_embeddings_codebooks_take_the_gradient(weight) -> None:
    run = start(weight, **DIRECT)
    client, upload, _ = run.round()
    channels = run.server.channels
    user, books = run.client.user["embedding"], [c.codebook for c in channels[:2]]
    size = run.method.config.batch_size
    for batch in reference.batches_of(KEY, run.data, ITEMS, run.method.config):
        kept = np.ones(len(batch.items), np.float32)
        padded = [np.pad(x, (0, size - len(x))) for x in (*batch, kept)]
        user, books = step(user, books, channels, padded)
    np.testing.assert_allclose(client.user["embedding"], user, rtol=1e-4, atol=1e-5)
    for sent, book, own, share in zip(
        upload, books, channels[:2], (1 - weight, weight), strict=True
    ):
        if share:
            np.testing.assert_allclose(sent.codebook, book, rtol=1e-4, atol=1e-5)
            assert np.abs(sent.codebook - own.codebook).max() > 0.01
        else:  # it is not used: no decay either
            same(sent.codebook, own.codebook)
    touched = np.asarray(client.items.items)
    kept = touched < ITEMS
    expected = Channels(
        *(c._replace(codebook=s.codebook) for c, s in zip(channels[:2], upload, strict=True)),
        channels.weight,
    )
    np.testing.assert_allclose(
        np.asarray(client.items.rows)[kept], np.asarray(rebuild(expected))[touched[kept]], atol=1e-5
    )


def test_without_item_embeddings_codewords_of_other_items_stay() -> None:
    """Under Adam as well, whose first step is as long for the smallest gradient."""
    run = start(without="item-embeddings")
    client, upload, _ = run.round()
    touched = np.asarray(client.items.items)
    touched = touched[touched < ITEMS]
    for sent, own in zip(upload, run.server.channels, strict=False):
        moved = (np.asarray(sent.codebook) != own.codebook).any(axis=-1)
        for level in range(LEVELS):
            used = np.isin(np.arange(WORDS), np.asarray(own.codes)[touched, level])
            same(moved[level], used)
        assert not moved.all()


WRONG = [
    ({"noise": -0.1}, "noise=-0.1 must be a finite number, 0 or more"),
    ({"noise": float("nan")}, "noise=nan must be a finite number"),
    ({"noise": float("inf")}, "noise=inf must be a finite number"),
    ({"noise": 0.1, "without": "item-embeddings"}, "noise is added to item embeddings.*laplace"),
    ({"noise": 0.1, "laplace": 0.1, "without": "codebooks"}, "noise and laplace.*give one of them"),
    ({"semantics": "a.npz", "without": "semantic"}, "semantics='a.npz' .* without='semantic'"),
    ({"semantics": "text", "without": "codebooks"}, "semantics='text' .* without='codebooks'"),
    ({"semantics": "a.npz", "codebook": "hash"}, "is not read with codebook='hash'.*leave one"),
    ({"weighting": "items"}, "weighting='items'.*data, touched"),
    ({"without": "items"}, "without='items'.*item-embeddings"),
    ({"levels": 0}, "levels=0"),
    ({"codewords": 0}, "codewords=0"),
    ({"fit_steps": 0}, "fit_steps=0"),
    ({"lr": -1.0}, "lr=-1.0"),
    ({"bits": 0}, "bits=0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        methods.rqfedrec(**options)
    assert "\n" not in str(error.value)


def test_a_client_s_memory_is_its_touched_rows_not_the_catalogue() -> None:
    """O(touched · d + L·M·d): many items more cost a client integers, not embeddings."""
    wide = {**OPTIONS, "dim": 64, "without": "semantic"}
    temporaries = []
    for items in (500, 8_000):
        method = methods.build("rqfedrec", **wide)
        problem = small(items=items)
        server = method.init(jax.random.key(0), problem)
        client = method.init_client(jax.random.key(1), server, 1)
        data = client_data(problem, 3)
        data = data._replace(longest=data.positives, allowed=None)
        arguments = (KEY, client, method.broadcast(server), data)
        compiled = jax.jit(method.local_update).lower(*arguments).compile()
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    table = (8_000 - 500) * 64 * 4
    assert temporaries[1] - temporaries[0] < table / 4
