"""RQFedRec's server: codes and codebooks at the start, λ, recodings, means, and bytes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import methods, uplink
from fedjax_rec.errors import InputError
from fedjax_rec.methods.codebook_fit import Channel, rebuild
from fedjax_rec.methods.rqfedrec import Upload, Weighted
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from fedjax_rec.simulation.ledger import round_bytes
from tests.methods.test_rqfedrec import DIM, ITEMS, LEVELS, OPTIONS, WORDS, channel, replaced, start
from tests.problems import listed, small

KEY = jax.random.key(0)
same = np.testing.assert_array_equal
seeds = st.integers(0, 2**32 - 1)


def method(**options: Any):
    return methods.build("rqfedrec", **{**OPTIONS, **options})


def between(chosen, server, round_: int):
    return chosen.between_rounds(np.random.default_rng(round_), round_, server)


def trained(chosen, server, seed: int):
    """The server as after a round: both codebooks somewhere else."""
    semantic, collaborative = (
        own._replace(codebook=own.codebook + channel(chosen, seed + k).codebook)
        for k, own in enumerate(server.channels[:2])
    )
    return replaced(server, semantic=semantic, collaborative=collaborative)


def rounds(chosen, server, count: int) -> list[Any]:
    """Servers after each of the first rounds."""
    servers = []
    for round_ in range(1, count + 1):
        server = between(chosen, trained(chosen, server, 10 * round_), round_)
        servers.append(server)
    return servers


# The start ----------------------------------------------------------------------------------------


def test_items_start_with_the_deviation_asked_for() -> None:
    chosen = method(levels=3, dim=200, init_std=0.2)
    server = chosen.init(KEY, small())
    items = np.asarray(chosen.broadcast(server).shared.items)
    assert items.std() == pytest.approx(0.2, rel=0.1)
    assert float(server.channels.weight) == 0
    assert not bool(server.coded)
    same(items, rebuild(server.channels))


def test_semantic_codes_are_those_of_the_content(tmp_path) -> None:
    """Vectors in four groups, in an order that is not the dataset's."""
    problem = small()
    ids, group = problem.dataset.item_ids, np.arange(ITEMS) % 4
    order = np.random.default_rng(0).permutation(ITEMS)
    vectors = 10 * np.eye(4, 9)[group] + 0.1 * np.random.default_rng(1).normal(size=(ITEMS, 9))
    path = tmp_path / "vectors.npz"
    np.savez(path, item_id=ids[order], embedding=vectors[order])
    servers = [method(codewords=4, semantics=str(path)).init(key, problem) for key in (KEY, KEY)]
    codes = np.asarray(servers[0].channels.semantic.codes)
    assert codes.shape == (ITEMS, LEVELS)
    assert codes.dtype == np.uint8
    assert len({*zip(codes[:, 0].tolist(), group.tolist(), strict=True)}) == 4
    jax.tree.map(same, *servers)
    by_text = method(codewords=4).init(KEY, problem)
    assert (by_text.channels.semantic.codes != codes).any()


def test_content_is_asked_for_only_where_it_is_used() -> None:
    problem = listed([[0, 1], [2, 3]], ITEMS)
    with pytest.raises(InputError, match=r"run --without semantic$") as error:
        method().init(KEY, problem)
    assert "\n" not in str(error.value)
    for options in ({"without": "semantic"}, {"codebook": "hash"}, {"without": "codebooks"}):
        method(**options).init(KEY, problem)


@pytest.mark.parametrize("without", [None, "semantic", "collaborative", "item-embeddings"])
def test_more_codewords_than_items(without) -> None:
    with pytest.raises(InputError, match=r"codewords=41 is more than the 40 items.*at most 40"):
        method(codewords=41, without=without).init(KEY, small())


# λ and recodings ----------------------------------------------------------------------------------


def test_the_mixing_weight_over_rounds() -> None:
    """0 until there are codes, then t/T_warm, then 1; it is what the next broadcast carries."""
    chosen = method(recode_every=3, warmup=5)
    weights = []
    for server in rounds(chosen, chosen.init(KEY, small()), 7):
        shared = chosen.broadcast(server).shared
        weights.append(float(shared.channels.weight))
        same(shared.items, rebuild(shared.channels))
        assert chosen.diagnostics(server)["mixing_weight"] == weights[-1]
        assert bool(server.coded) == (len(weights) >= 3)
    np.testing.assert_allclose(weights, [0, 0, 3 / 5, 4 / 5, 1, 1, 1], rtol=1e-6)


@given(seeds, st.integers(1, 12), st.booleans())
@settings(max_examples=25, deadline=None)
def test_recoding_moves_items_by_no_more_than_its_share_of_the_fit_s_error(
    seed, warmup, coded
) -> None:
    """At equal λ, since λ grows in the same moment; at first from the semantic channel's items."""
    chosen = method(recode_every=4, warmup=warmup)
    server = start().server._replace(coded=jnp.bool_(coded))
    before = trained(chosen, server, seed % 2**31)
    if not coded:  # as until then: the collaborative channel stands for the semantic one's items
        before = replaced(before, collaborative=before.channels.semantic)
    after = between(chosen, before, 4)
    weight = min(1.0, 4 / warmup)
    assert float(after.channels.weight) == pytest.approx(weight)
    was, now = (
        np.float64(rebuild(s.channels._replace(weight=jnp.float32(weight))))
        for s in (before, after)
    )
    channels = [
        np.float64(rebuild(s.channels._replace(weight=jnp.float32(1)))) for s in (before, after)
    ]
    fit_error = np.linalg.norm(channels[1] - channels[0])
    assert np.linalg.norm(now - was) <= weight * fit_error * (1 + 1e-4)
    scale = np.linalg.norm(channels[0])
    assert float(after.recode_error) == pytest.approx(fit_error / scale, rel=1e-3)
    assert fit_error < scale
    same(after.channels.semantic.codebook, before.channels.semantic.codebook)
    same(after.channels.semantic.codes, before.channels.semantic.codes)


def test_between_recodings_only_the_weight_changes() -> None:
    chosen = method(recode_every=4, warmup=10)
    server = start().server
    after = between(chosen, server, 5)
    assert float(after.channels.weight) == 0.5
    same_weight = after.channels._replace(weight=server.channels.weight)
    jax.tree.map(same, same_weight, server.channels)
    assert chosen.diagnostics(after)["recode_error"] is None


def test_states_keep_their_shapes_over_recodings() -> None:
    for options in ({}, {"codebook": "hash"}, {"without": "semantic"}):
        chosen = method(recode_every=1, **options)
        first = chosen.init(KEY, small())
        shapes = [
            jax.tree.map(lambda x: (x.shape, x.dtype), server)
            for server in (first, *rounds(chosen, first, 2))
        ]
        assert shapes[0] == shapes[1] == shapes[2]


def test_the_item_view_shows_the_channel_in_use() -> None:
    chosen = method(recode_every=2, warmup=4)
    early, late = rounds(chosen, chosen.init(KEY, small()), 2)
    for server, own in ((early, early.channels.semantic), (late, late.channels.collaborative)):
        view = chosen.item_view(server)
        same(view["item_embeddings"], rebuild(server.channels))
        same(view["labels"], own.codes[:, 0])


# Ablations ----------------------------------------------------------------------------------------


def test_without_collaborative_there_is_one_channel_for_good() -> None:
    chosen = method(without="collaborative", recode_every=1)
    for server in rounds(chosen, chosen.init(KEY, small()), 3):
        assert float(server.channels.weight) == 0
        assert not bool(server.coded)
        assert chosen.diagnostics(server)["recode_error"] is None


def test_without_semantic_there_is_the_other_one_from_the_first() -> None:
    chosen = method(without="semantic", recode_every=2)
    first = chosen.init(KEY, listed([[0, 1], [2, 3]], ITEMS))
    servers = [first, *rounds(chosen, first, 2)]
    assert [float(server.channels.weight) for server in servers] == [1, 1, 1]
    codes = [server.channels.collaborative.codes for server in servers]
    same(codes[0], codes[1])
    assert (codes[1] != codes[2]).any()
    assert 0 < chosen.diagnostics(servers[2])["recode_error"] < 1


@pytest.mark.parametrize("without", [None, "semantic"])
@pytest.mark.parametrize("fixed", [False, True])
def test_fixed_collaborative_codes_are_made_once(fixed, without) -> None:
    chosen = method(fix_collaborative=fixed, without=without, recode_every=2)
    servers = rounds(chosen, chosen.init(KEY, small()), 4)
    codes = [s.channels.collaborative.codes for s in servers]
    assert (codes[0] != codes[1]).any()  # what there was before round 2 is a hash, or unused
    same(codes[1], codes[2])
    assert bool((codes[3] == codes[2]).all()) is fixed
    if fixed:  # and the codebook goes on from where training left it
        kept = between(chosen, servers[2], 4).channels.collaborative
        same(kept.codebook, servers[2].channels.collaborative.codebook)


@pytest.mark.parametrize("without", [None, "semantic"])
def test_a_hash_never_changes(without) -> None:
    chosen = method(codebook="hash", without=without, recode_every=2)
    first = chosen.init(KEY, small())
    servers = rounds(chosen, first, 6)
    in_use = [s for s in (first, *servers) if s.coded]
    assert len(in_use) == (5 if without is None else 7)
    for server in servers:
        same(server.channels.semantic.codes, first.channels.semantic.codes)
    for server in in_use:
        same(server.channels.collaborative.codes, in_use[0].channels.collaborative.codes)
    kept = between(chosen, servers[-1], 8).channels.collaborative
    same(kept.codebook, servers[-1].channels.collaborative.codebook)


# The mean -----------------------------------------------------------------------------------------


def uploads(seed: int = 0) -> tuple[Upload, np.ndarray]:
    """What three clients send, and their weights; the first level's last codeword is nobody's."""
    rng = np.random.default_rng(seed)

    def part() -> Weighted:
        present = rng.random((3, LEVELS, WORDS)) < 0.5
        present[:, 0, -1] = False
        return Weighted(
            rng.normal(size=(3, LEVELS, WORDS, DIM)).astype(np.float32), jnp.asarray(present)
        )

    return Upload(part(), part()), np.array([3, 1, 5], np.float32)


def reduced(chosen, sent: Upload, weights: np.ndarray):
    """In two groups, as the engine adds them up."""
    first, rest = (
        (jax.tree.map(lambda x, p=p: x[p], sent), weights[p]) for p in (slice(2), slice(2, 3))
    )
    acc, counted = chosen.reduce(None, *first)
    assert counted is None
    return chosen.reduce(acc, *rest)[0]


def test_the_mean_of_codebooks_is_over_all_clients() -> None:
    run = start(weighting="data")
    sent, weights = uploads()
    sent = Upload(*(part._replace(present=()) for part in sent))
    server = run.method.server_step(KEY, run.server, reduced(run.method, sent, weights))
    for own, part, old in zip(server.channels[:2], sent, run.server.channels, strict=False):
        expected = np.average(np.float64(part.codebook), axis=0, weights=weights)
        np.testing.assert_allclose(own.codebook, expected, rtol=1e-5, atol=1e-6)
        same(own.codes, old.codes)


def test_touched_means_are_over_the_clients_that_use_a_codeword() -> None:
    run = start(weighting="touched")
    sent, weights = uploads()
    server = run.method.server_step(KEY, run.server, reduced(run.method, sent, weights))
    for own, part, old in zip(server.channels[:2], sent, run.server.channels, strict=False):
        present = np.asarray(part.present)
        assert not present.any(axis=0).all()
        for level in range(LEVELS):
            for word in range(WORDS):
                users = present[:, level, word]
                if users.any():
                    expected = np.average(
                        part.codebook[users, level, word], axis=0, weights=weights[users]
                    )
                    np.testing.assert_allclose(own.codebook[level, word], expected, rtol=1e-5)
                else:
                    same(own.codebook[level, word], old.codebook[level, word])


def test_noise_of_clients_that_do_not_use_a_codeword_is_left_out() -> None:
    run = start(weighting="touched")
    sent, weights = uploads()
    noisy = Upload(
        *(
            part._replace(codebook=np.where(part.present[..., None], part.codebook, 1e6))
            for part in sent
        )
    )
    servers = [
        run.method.server_step(KEY, run.server, reduced(run.method, x, weights))
        for x in (sent, noisy)
    ]
    jax.tree.map(same, *servers)


@pytest.mark.parametrize("options", [{"clip": 0.1}, {"laplace": 1.0}, {"bits": 1}])
def test_the_uplink_leaves_alone_which_codewords_count(options) -> None:
    sent = jax.tree.map(lambda x: x[0], uploads()[0])
    received = method(weighting="touched", **options).uplink.apply(KEY, sent)
    for before, after in zip(sent, received, strict=True):
        same(before.present, after.present)
        assert (before.codebook != after.codebook).any()


def test_epsilon_counts_both_codebooks_and_nothing_hides_which_codewords_count() -> None:
    options = {"clip": 0.5, "laplace": 0.2}
    expected = uplink.epsilon(0.5, 0.2, rows=2 * LEVELS * WORDS, dim=DIM, rounds=3)
    assert method(**options).epsilon(None, 3) == expected
    assert method(laplace=0.2).epsilon(None, 3) is None
    assert method(weighting="touched", **options).epsilon(None, 3) is None


# Bytes --------------------------------------------------------------------------------------------

BOOK = 4 * LEVELS * WORDS * DIM  # float32
CODES = math.ceil(ITEMS * LEVELS * math.log2(WORDS) / 8)


def test_bytes_of_a_run_from_one_channel_to_two_and_back() -> None:
    """λ = 0, 1/2, 1: only channels that count travel. Silos of several users."""
    engine = Engine(method(recode_every=1, warmup=2, fit_steps=2), small(clients=5), client_mesh(1))
    state, sent = engine.initial_state(), []
    for round_ in (1, 2, 3):
        state, outcome = engine.run_round(state, round_)
        assert np.isfinite(outcome.train_loss)
        sent.append((outcome.bytes.up_total / 5, outcome.bytes.down_total / 5))
    one, two = (BOOK, BOOK + CODES), (2 * BOOK, 2 * (BOOK + CODES))
    assert sent == [one, two, one]


def bytes_at(weight: float, codes: Any = None, **options: Any) -> tuple[int, int]:
    """(up, down) of one client in a round with a given λ, without running it."""
    chosen = method(**options)
    config = chosen.config
    book = jax.ShapeDtypeStruct((config.levels, config.codewords, config.dim), jnp.float32)
    present = jax.ShapeDtypeStruct(book.shape[:2], jnp.bool_)
    part = Weighted(book, present if config.weighting == "touched" else ())
    server = start(weight).server
    both = Channel(
        jnp.zeros(book.shape),
        jnp.zeros((ITEMS, config.levels), jnp.uint8 if codes is None else codes),
    )
    download = chosen.broadcast(replaced(server, semantic=both, collaborative=both))
    sent = round_bytes(chosen, download, Upload(part, part), clients=1)
    return sent.up_total, sent.down_total


@pytest.mark.parametrize(
    ("levels", "words", "bits"), [(1, 1, 0), (3, 2, 1), (2, 5, 3), (3, 16, 4), (4, 17, 5)]
)
def test_bytes_are_the_published_numbers_with_codes_in_their_bits(levels, words, bits) -> None:
    up, down = bytes_at(0.3, levels=levels, codewords=words)
    numbers = uplink.published_count(
        "rqfedrec", items=ITEMS, dim=DIM, levels=levels, codewords=words
    )
    codes = 2 * ITEMS * levels
    assert down == 4 * (numbers - codes) + 2 * math.ceil(ITEMS * levels * bits / 8)
    assert up == 4 * (numbers - codes)  # nobody sends codes back
    for weight in (0.0, 1.0):
        assert bytes_at(weight, levels=levels, codewords=words) == (up // 2, down // 2)


def test_bytes_of_quantized_codebooks_and_of_flags() -> None:
    up, down = bytes_at(0.3)
    rows = LEVELS * WORDS
    quantized = math.ceil(rows * DIM * 3 / 8) + 8 * rows  # two float32 scales a codeword
    assert bytes_at(0.3, bits=3) == (2 * quantized, down)
    flags = math.ceil(rows / 8)
    assert bytes_at(0.3, weighting="touched") == (up + 2 * flags, down)
    assert bytes_at(0.0, weighting="touched", bits=3) == (quantized + flags, down // 2)
