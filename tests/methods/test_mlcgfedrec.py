"""MLCGFedRec: what it sends, what its updates are, and that labels are all that goes down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import draw_round
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast
from fedjax_rec.methods.item_labels import clusters, codes
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, listed, small

TINY = {"dim": 3, "negatives": 2, "granularities": (2, 5), "label_bits": 3}
KEY = jax.random.key(7)


def engine_of(problem=None, **options):
    method = methods.mlcgfedrec(**{**TINY, **options})
    return Engine(method, problem or small(25), client_mesh(1))


def labels_after(engine, rounds=2):
    state = engine.initial_state()
    for number in range(1, rounds + 1):
        state, outcome = engine.run_round(state, number, evaluate=True)
    return state.server.download, outcome


@pytest.mark.parametrize("upload", ["table", "rows"])
@pytest.mark.parametrize("labels", ["codes", "clusters"])
def test_an_update_is_one_step_of_bce_from_zero(labels, upload) -> None:
    """Against jax.grad of the loss at items of zero, with the head that the labels give."""
    problem = small(25)
    method = methods.mlcgfedrec(**TINY, labels=labels, upload=upload)
    download, _ = labels_after(engine_of(labels=labels))
    data, shared = client_data(problem, 4), Broadcast(download)
    client = method.receive(KEY, (), shared, data)
    _, update, _ = method.local_update(KEY, client, shared, data)
    acc, _ = method.reduce(
        method.accumulator(method.init(KEY, problem)),
        jax.tree.map(lambda x: x[None], update),
        jnp.ones(1),
    )

    kind = method.config.kind()
    key = jax.random.fold_in(jax.random.key(0), 2)
    own = np.asarray(kind.coordinates(download.labels, key))[problem.train[4]].sum(axis=0)
    head = np.append(own / np.linalg.norm(own), 1.0)
    np.testing.assert_allclose(client.heads[0], head, rtol=1e-4)

    samples = draw_round(KEY, data, 40, 2)
    positive = np.arange(len(samples.items)) % 3 == 0

    def loss(items):
        s = items[samples.items] @ head
        each = jnp.where(positive, jax.nn.softplus(-s), 0.5 * jax.nn.softplus(s))
        return jnp.sum(each * samples.valid)

    expected = -jax.grad(loss)(jnp.zeros((40, 4)))
    np.testing.assert_allclose(acc.total, expected, atol=1e-6)


def test_shared_heads_make_a_mean_of_rank_one_and_private_ones_do_not() -> None:
    ranks = {}
    for heads in ("shared", "private"):
        engine = engine_of(heads=heads)
        state, _ = engine.run_round(engine.initial_state(), 1)
        taste = np.asarray(state.server.updates[0][:, :-1])
        values = np.linalg.svd(taste, compute_uv=False)
        ranks[heads] = int((values > 1e-4 * values[0]).sum())
    assert ranks == {"shared": 1, "private": 3}


def test_labels_of_heads_find_the_leading_singular_vectors() -> None:
    """Two groups of users with two groups of items: the codes are the groups."""
    train = [list(range(8)) if u % 2 else list(range(8, 16)) for u in range(20)]
    engine = engine_of(listed(train, 20), dim=2, label_bits=8, negative_weight=0.0)
    download, _ = labels_after(engine, rounds=5)
    z = np.asarray(engine.method.config.kind().coordinates(download.labels, KEY))
    cosine = z @ z.T / np.maximum(np.outer(*[np.linalg.norm(z, axis=1)] * 2), 1e-9)
    assert cosine[:8, :8].min() > 0.99
    assert cosine[8:16, 8:16].min() > 0.99
    assert cosine[:8, 8:16].max() < 0.1


@pytest.mark.parametrize("labels", ["codes", "clusters"])
def test_the_server_sees_uploads_alone_and_their_order_is_nothing(labels) -> None:
    """Its work takes a sum; the same sum of clients in another order gives the same labels, and
    other data with the same sum too."""
    method = methods.mlcgfedrec(**TINY, labels=labels)
    server = method.init(KEY, small(25))
    uploads = jax.random.normal(KEY, (25, 40, 4))
    found = []
    for order in (np.arange(25), np.random.default_rng(1).permutation(25)):
        acc = method.accumulator(server)._replace(
            total=jnp.sum(uploads[order], axis=0), weight=jnp.float32(25)
        )
        stepped = method.server_step(KEY, server, acc)
        made = method.between_rounds(np.random.default_rng(3), 1, stepped)
        found.append(made.download)
    if labels == "codes":
        levels = [np.asarray(x.labels.levels) for x in found]
        assert (np.abs(levels[0] - levels[1]) <= 1).all()  # sums in another order
    else:
        np.testing.assert_array_equal(found[0].labels.labels, found[1].labels.labels)
    leaves = jax.tree.leaves(method.broadcast(made).shared)
    # Nothing of a client is among what goes down: integers an item, a scale a coordinate.
    assert all(x.dtype != jnp.float32 or x.shape in ((3,), ()) for x in leaves)


def test_labels_follow_from_the_seed() -> None:
    for labels in ("codes", "clusters"):
        first, again = (labels_after(engine_of(labels=labels))[0] for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.parametrize(
    ("labels", "bits"),
    [
        ("codes", 40 * 3 * 3 + 3 * 32 + 40 * 3),  # levels, scales, popularity
        ("clusters", 40 * 1 + 40 * 3 + 40 * 3),  # 2 clusters, 5 clusters, popularity
    ],
)
def test_label_bytes_are_bits_times_items(labels, bits) -> None:
    engine = engine_of(labels=labels)
    state, first = engine.run_round(engine.initial_state(), 1)
    assert first.bytes.down == 0  # there are no labels yet
    assert first.bytes.up == 40 * 4 * 4
    _, second = engine.run_round(state, 2)
    # Each array ends with a whole byte.
    assert bits / 8 <= second.bytes.down <= bits / 8 + 3
    _, rows = engine_of(labels=labels, upload="rows").run_round(state, 2)
    assert 0 < rows.bytes.up < 40 * 4 * 4 + 40


def test_scores_by_hand() -> None:
    kind = codes(2, 8, 0.1)
    update = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    balance = np.array([0.5, 0.5, 0.25, 0.0])  # of 4 clients: counts 4, 4, 2, 0
    labels = kind.make(update, balance, 4.0, 0)
    np.testing.assert_array_equal(
        labels.popularity, np.round(np.log1p([4, 4, 2, 0]) / np.log(5) * 255)
    )
    profile = kind.profile(labels, jnp.array([0, 0]), jnp.zeros(2, int), jnp.array([1.0, 0.0]), 1)
    z = np.array([[2**-0.5, 0], [2**-0.5, 0], [0, 1], [0, 0]])
    expected = z @ z[0] + 0.1 * np.asarray(labels.popularity) / 255
    np.testing.assert_allclose(kind.scores(labels, profile, 0), expected, atol=0.02)

    kind = clusters((2,), 2, 8, 0.1)
    labels = kind.make(np.array([[5.0, 0], [5.0, 0], [0, 3], [0, 3]]), balance, 4.0, 0)
    assert labels.labels[0, 0] == labels.labels[1, 0] != labels.labels[2, 0]
    profile = kind.profile(labels, jnp.array([0, 1]), jnp.zeros(2, int), jnp.ones(2), 1)
    shared = np.log(np.array([2 / np.sqrt(2)] * 2 + [0.0] * 2) + 1e-3)
    expected = shared + 0.1 * np.asarray(labels.popularity) / 255
    np.testing.assert_allclose(kind.scores(labels, profile, 0), expected, rtol=1e-5)


def test_the_control_shares_nothing_and_learns_what_leaks() -> None:
    """Leak-free it knows nothing of the held-out items; published negatives give them away."""
    hits = {}
    for protocol in ("leak-free", "published"):
        problem = small(60, 40, protocol=protocol)
        engine = engine_of(problem, without="sharing", negatives=4)
        state = engine.initial_state()
        for number in range(1, 7):
            state, outcome = engine.run_round(state, number, evaluate=number == 6)
        assert outcome.bytes.up == outcome.bytes.down == 0
        hits[protocol] = float((outcome.ranks["test_full"][:, 0] < 10).mean())
    assert hits["published"] > hits["leak-free"] + 0.3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_bits": 9}, "label_bits=9 must be from 1 to 8"),
        ({"granularities": ()}, "granularities=none: give one or more"),
        ({"labels": "clusters", "granularities": (5, 41)}, "granularities=5 41: at most the 40"),
        ({"heads": "own"}, "heads='own'"),
        ({"negative_weight": -1.0}, "negative_weight=-1.0 must be a finite number, 0 or more"),
    ],
)
def test_options_out_of_range_are_one_line(options, told) -> None:
    with pytest.raises(InputError) as error:
        engine_of(**options)
    assert told in str(error.value)
