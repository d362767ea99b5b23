"""AlignFedRec: what the server makes of the uploads, what travels, what the ablations leave out."""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods, tiles
from fedjax_rec.errors import InputError
from fedjax_rec.losses import cosine_similarity
from fedjax_rec.server import EmptyGraphWarning, communities, modularity
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import small

TINY = {"dim": 4, "batch_size": 16, "negatives": 2, "threshold": 0.5, "lr": 0.01, "item_lr": 0.01}


@cache
def built(devices: int, **options) -> Engine:
    """An engine, whose programs all tests share."""
    return Engine(methods.build("alignfedrec", **TINY | options), small(12), client_mesh(devices))


def rounds(count=2, devices=1, **options):
    """States and outcomes of some rounds."""
    engine = built(devices, **options)
    state, outcomes = engine.initial_state(), []
    for number in range(1, count + 1):
        state, outcome = engine.run_round(state, number)
        outcomes.append(outcome)
    return engine, state, outcomes


@pytest.mark.parametrize("center", [False, True])
def test_the_server_has_the_mean_of_thresholded_similarities(center) -> None:
    engine, state, outcomes = rounds(center=center)
    items = engine.client_states(state).items
    dense = [cosine_similarity(jnp.asarray(e), threshold=0.5, center=center) for e in items]
    mean = np.mean(dense, axis=0)
    server = state.server
    np.testing.assert_allclose(tiles.unpack(server.similarity, 40), mean, atol=1e-6)
    assert int(server.pairs) == np.count_nonzero(mean) // 2
    sent = [np.count_nonzero(x) // 2 for x in dense]
    bits = [min(count * (32 + 10), 780 * 32) for count in sent]  # 780 pairs of 40 items
    assert outcomes[-1].bytes.up_total == sum(-(-b // 8) for b in bits)


def test_labels_are_the_communities_of_the_thresholded_mean() -> None:
    engine, state, _ = rounds()
    mean = np.asarray(tiles.unpack(state.server.similarity, 40))
    # The seed of the round's host randomness: any seed finds these communities.
    for seed in range(3):
        expected = communities(mean, threshold=0.5, seed=seed)
        np.testing.assert_array_equal(state.server.labels, expected)
    found = engine.method.diagnostics(state.server)
    assert 0 < found["modularity"] < 1
    assert found["similar_pairs"] == int(state.server.pairs)


def test_the_graph_can_have_a_threshold_of_its_own() -> None:
    _, alike, _ = rounds(1)
    engine, state, _ = rounds(1, graph_threshold=0.05)
    np.testing.assert_array_equal(state.server.similarity, alike.server.similarity)
    mean = np.asarray(tiles.unpack(state.server.similarity, 40))
    assert np.count_nonzero(mean >= 0.05) > np.count_nonzero(mean >= 0.5)
    found = modularity(mean, np.asarray(state.server.labels), threshold=0.05)
    assert engine.method.diagnostics(state.server)["modularity"] == pytest.approx(found, rel=1e-5)


def test_the_first_round_is_plain_and_the_second_aligned() -> None:
    """All forms train alike until there is something to align to."""
    plain = {"ica": False, "gsa": False}
    states = {}
    for name, options in {
        "full": {},
        "no ica": {"ica": False},
        "no gsa": {"gsa": False},
        "plain": plain,
    }.items():
        states[name] = [rounds(count, **options)[1].clients.items for count in (1, 2)]
    for name in ("full", "no ica", "no gsa"):
        # Not bitwise: without a regularizer, Adam takes its steps by rows.
        np.testing.assert_allclose(states[name][0], states["plain"][0], rtol=1e-5, atol=1e-6)
        assert np.abs(states[name][1] - states["plain"][1]).max() > 1e-4
    assert np.abs(states["full"][1] - states["no ica"][1]).max() > 1e-4
    assert np.abs(states["full"][1] - states["no gsa"][1]).max() > 1e-4


def test_alignment_pulls_similarities_together() -> None:
    """What L_GSA is for: clients' similarities of the pairs they send spread less around M_g."""

    def spread(**options):
        engine, state, _ = rounds(6, **options)
        items = engine.client_states(state).items
        dense = np.stack([cosine_similarity(jnp.asarray(e)) for e in items])
        return dense.std(axis=0).mean()

    assert spread() < 0.9 * spread(gsa=False)


def test_what_travels_down() -> None:
    for options, with_labels, with_matrix in (
        ({}, True, True),
        ({"ica": False}, False, True),
        ({"gsa": False}, True, False),
        ({"ica": False, "gsa": False}, False, False),
    ):
        engine, state, outcomes = rounds(1, **options)
        assert outcomes[0].bytes.down_total == 0  # there is nothing yet
        assert (outcomes[0].bytes.up_total > 0) == (with_labels or with_matrix)
        pairs, labels = int(state.server.pairs), int(state.server.labels.max()) + 1
        expected = 0
        if with_labels:
            expected += -(-40 * (labels - 1).bit_length() // 8)
        if with_matrix:
            expected += -(-min(pairs * (32 + 10), 780 * 32) // 8)
        state, outcome = engine.run_round(state, 2)
        assert outcome.bytes.down_total == 12 * expected


def test_half_precision_halves_the_values_that_travel_down() -> None:
    engine, state, _ = rounds(1, similarity_dtype="bfloat16")
    assert state.server.similarity.dtype == jnp.bfloat16
    pairs = int(state.server.pairs)
    labels = (int(state.server.labels.max())).bit_length() * 40
    _, outcome = engine.run_round(state, 2)
    expected = -(-min(pairs * (16 + 10), 780 * 16) // 8) + -(-labels // 8)
    assert outcome.bytes.down_total == 12 * expected


def test_an_empty_graph_gives_singletons_and_goes_on() -> None:
    with pytest.warns(EmptyGraphWarning, match="threshold 0.999"):
        engine, state, outcomes = rounds(2, threshold=0.999)
    np.testing.assert_array_equal(state.server.labels, np.arange(40))
    assert np.isnan(engine.method.diagnostics(state.server)["modularity"])
    assert np.isfinite(outcomes[-1].train_loss)


def test_devices_and_chunks_agree() -> None:
    _, one, first = rounds(2)
    _, two, second = rounds(2, devices=2)
    # Measured over two rounds of Adam: below 1e-4 with JAX 0.10, 3.9e-4 with 0.8.
    np.testing.assert_allclose(one.server.similarity, two.server.similarity, atol=5e-4)
    assert first[-1].bytes.up_total == pytest.approx(second[-1].bytes.up_total, rel=0.01)
    method = methods.build("alignfedrec", **TINY)
    engine = Engine(method, small(12), client_mesh(1), chunk=5)
    state = engine.initial_state()
    for number in (1, 2):
        state, _ = engine.run_round(state, number)
    np.testing.assert_allclose(one.server.similarity, state.server.similarity, atol=5e-4)


def test_score_is_a_linear_layer_on_both_vectors() -> None:
    engine, state, _ = rounds(1)
    client = jax.tree.map(lambda x: x[3], engine.client_states(state))
    shared = engine.method.broadcast(state.server).shared
    got = engine.method.scores(client, shared, jnp.int32(0))
    user = client.user
    both = np.concatenate([np.tile(user["embedding"][0], (40, 1)), client.items], axis=1)
    np.testing.assert_allclose(got, both @ user["kernel"][0] + user["bias"][0], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"threshold": 0.0}, "threshold=0.0 must be above 0 and at most 1"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"graph_threshold": 0.0}, "graph_threshold=0.0 must be above 0 and at most 1"),
        ({"contrast_weight": -0.1}, "contrast_weight=-0.1 must be a finite number, 0 or more"),
        ({"alignment_weight": -5.0}, "alignment_weight=-5.0"),
        ({"alignment_weight": float("nan")}, "alignment_weight=nan"),
        ({"temperature": 0.01}, "temperature=0.01 is too small"),
        ({"base_temperature": 0.0}, "base_temperature=0.0"),
        ({"clustering": "kmeans"}, "clustering='kmeans' is not known: use 'leiden' or 'louvain'"),
        ({"similarity_dtype": "int8"}, "similarity_dtype='int8'"),
        ({"bits": 0}, "bits=0"),
        ({"laplace": -1.0}, "laplace=-1.0"),
        ({"item_lr": -1.0}, "item_lr=-1.0"),
    ],
)
def test_bad_options_get_one_line(options, names) -> None:
    with pytest.raises(InputError, match=names) as error:
        methods.build("alignfedrec", **options)
    assert "\n" not in str(error.value)


def test_louvain_is_an_option() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state, _ = rounds(1, clustering="louvain")
    assert int(state.server.labels.max()) > 0
