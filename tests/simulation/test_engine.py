"""One simulation, whatever the plan: silos, buckets, cohorts, seeds. And what it scores."""

from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.errors import TrainingError
from fedjax_rec.evaluation import hit_ratio, mean, ndcg
from fedjax_rec.methods.shared_items import Held
from fedjax_rec.simulation import layout
from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.runs import (
    USERS,
    assert_bitwise,
    assert_same_run,
    make_engine,
    run_engine,
)

# Plans ------------------------------------------------------------------------------------------


def test_silos_in_every_shape(two_devices) -> None:
    problem, method = small(USERS + 1, clients=5), tiny("cgfedrec")
    assert problem.users_per_client.tolist() == [5, 5, 5, 5, 6]
    alone = run_engine(make_engine(method, problem, chunk=1))
    assert_same_run(run_engine(make_engine(method, problem, chunk=5)), alone)
    assert_same_run(run_engine(make_engine(method, problem, 2)), alone)
    _check_scores(method, problem, alone)


def test_silos_with_several_held_out_items_a_user() -> None:
    """The ratio split: ragged lists, no sampled candidates; scored at download."""
    problem, method = small(USERS + 1, clients=5, split="ratio"), tiny("fedmf")
    assert len(set(problem.test.lengths)) > 1
    run = run_engine(make_engine(method, problem, chunk=5, evaluate_at="download"))
    assert set(run[2][-1].ranks) == {
        f"{split}_{kind}" for split in ("validation", "test") for kind in ("full", "top")
    }
    _check_scores(method, problem, run)


def test_buckets_change_nothing(two_devices) -> None:
    """Cut into buckets, clients are padded otherwise, and otherwise again on two devices."""
    problem = small(USERS)
    method = tiny("local")
    one = run_engine(make_engine(method, problem, chunk=1, cohort=15))
    few = {"_ACCEPTED_ENTRIES": 0, "_MAX_BUCKETS": 3}
    with mock.patch.multiple(layout, **few):
        cut = make_engine(method, problem, chunk=4, cohort=15)
        cut_on_two = make_engine(method, problem, 2, cohort=15)
    buckets = [len(engine.layout.buckets) for engine in (cut, cut_on_two)]
    assert buckets == [3, 3]
    assert [b.data.items.shape[-1] for b in cut.layout.buckets] != [
        b.data.items.shape[-1] for b in cut_on_two.layout.buckets
    ]
    assert_same_run(run_engine(cut), one)
    assert_same_run(run_engine(cut_on_two), one)


def test_states_move_between_layouts(two_devices) -> None:
    """What one engine saved by client id, another takes up on other devices."""
    problem, method = small(USERS), tiny("fedmf")  # whose clients all start apart
    one, two = make_engine(method, problem, chunk=7), make_engine(method, problem, 2)
    state = one.initial_state()
    clients = one.client_states(state)
    moved = two.restore(jax.tree.map(np.array, state.server), clients)
    assert_bitwise(two.client_states(moved), clients)
    assert_bitwise(two.client_states(two.initial_state()), clients)
    assert_bitwise(two.evaluate(moved, 0), one.evaluate(state, 0))


# The same seed ----------------------------------------------------------------------------------


# That every method is the same in another engine, `test_contract` asks. Here are those that draw
# most at random: states, a cohort's uploads kept by the server, codes and labels on the host.
@pytest.mark.parametrize("name", ["local", "fedca", "rqfedrec", "mlcgfedrec"])
def test_one_seed_one_run(name) -> None:
    problem = small(USERS)
    plan: dict[str, Any] = {"cohort": 0.5, "chunk": 7}
    first = run_engine(make_engine(tiny(name), problem, seed=5, **plan))
    second = run_engine(make_engine(tiny(name), problem, seed=5, **plan))
    assert_bitwise(first[1], second[1])
    for ours, theirs in zip(first[2], second[2], strict=True):
        assert ours.train_loss == theirs.train_loss
        assert_bitwise(ours.ranks, theirs.ranks)
    other = run_engine(make_engine(tiny(name), problem, seed=6, **plan))
    pairs = zip(jax.tree.leaves(first[1]), jax.tree.leaves(other[1]), strict=True)
    assert any((a != b).any() for a, b in pairs)


# Cohorts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", ["local", "pfedrec", "cgfedrec", "fedmf"])
def test_who_sits_out_stays_as_they_were(name, chunk) -> None:
    problem, method = small(USERS), tiny(name)
    engine = make_engine(method, problem, chunk=chunk, cohort=9)
    state = engine.initial_state()
    for number in (1, 2):
        before = engine.client_states(state)
        at_download = engine.evaluate(state, number - 1)
        state, outcome = engine.run_round(state, number, evaluate=True)
        after = engine.client_states(state)
        changed = np.zeros(USERS, bool)
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            changed |= (old != new).reshape(USERS, -1).any(axis=1)
        assert changed.sum() == outcome.participants == 9
        # "trained" scores those who sit out on this round's download.
        for kind, ranks in outcome.ranks.items():
            np.testing.assert_array_equal(ranks[~changed], at_download[kind][~changed])
        assert any((outcome.ranks[k] != at_download[k])[changed].any() for k in at_download)


# The server's mean ------------------------------------------------------------------------------


def test_the_server_holds_the_plain_mean_of_what_cgfedrec_uploads() -> None:
    method = tiny("cgfedrec")
    _, (clients, server), _ = run_engine(make_engine(method, small(USERS), chunk=7))
    np.testing.assert_allclose(server.items, clients.items.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert bool(server.labels.known)
    assert set(server.labels.labels) == set(range(method.config.clusters))


def test_the_server_holds_the_weighted_mean_of_what_fedmf_uploads() -> None:
    """Weights are numbers of training interactions. The clients here keep what they sent."""
    method = tiny("fedmf", weight_decay=1e-30)  # so that they send whole tables

    def keep(key, server, num_users):
        client = method.init_client(key, server, num_users)
        return client._replace(items=Held((), server.items))

    keeping = method._replace(init_client=keep, retain=lambda client: client)
    problem = small(USERS)
    _, (clients, server), _ = run_engine(make_engine(keeping, problem, chunk=7))
    weights = problem.train.lengths
    assert len(set(weights)) > 3
    expected = np.average(clients.items.rows, axis=0, weights=weights)
    np.testing.assert_allclose(server.items, expected, rtol=1e-5, atol=1e-6)


def test_the_server_s_mean_is_of_what_the_wire_carries() -> None:
    """4 bits an entry: the mean is that of 16 levels a row, off the exact one by half a level."""
    exact, coarse = tiny("cgfedrec"), tiny("cgfedrec", bits=4)
    _, (clients, server), _ = run_engine(make_engine(coarse, small(USERS), chunk=7), rounds=1)
    _, (same, unquantized), _ = run_engine(make_engine(exact, small(USERS), chunk=7), rounds=1)
    assert_bitwise(clients, same)  # what clients keep is not what they send
    low = clients.items.min(axis=-1, keepdims=True)
    step = (clients.items.max(axis=-1, keepdims=True) - low) / 15
    levels = low + np.round((clients.items - low) / step) * step
    # A value half-way between two levels may be rounded either way.
    assert (np.abs(server.items - levels.mean(axis=0)) > 1e-5).mean() < 0.02
    off = np.abs(server.items - unquantized.items)
    assert 0 < off.max() <= step.mean(axis=0).max() / 2


# What is scored ---------------------------------------------------------------------------------


def _check_scores(method, problem, run) -> None:
    """Ranks at download against scores and counting in NumPy, for the last round."""
    _, (clients, server), outcomes = run
    for client in range(problem.num_clients):
        for user in range(problem.client_starts[client], problem.client_starts[client + 1]):
            slot = user - problem.client_starts[client]
            if method.name == "fedmf":
                scores = server.items @ clients.user["embedding"][client, slot]
            else:
                head = clients.head
                scores = clients.items[client] @ head["kernel"][client, slot]
                scores = scores + head["bias"][client, slot]
            _check_ranks(problem, user, scores, outcomes[-1].ranks)


def _check_ranks(problem, user, scores, ranks) -> None:
    unseen = np.setdiff1d(np.arange(problem.num_items), problem.train[user])
    at_test = np.setdiff1d(unseen, problem.validation[user])
    for split, held_out, pool in (
        ("validation", problem.validation[user], unseen),
        ("test", problem.test[user], at_test),
    ):
        expected = [(scores[pool] >= scores[item]).sum() - 1 for item in held_out]
        got = ranks[f"{split}_full"][user]
        assert got[got >= 0].tolist() == expected
        if problem.evaluation_negatives is None:
            best = pool[np.argsort(-scores[pool], kind="stable")][:10]
            top = ranks[f"{split}_top"][user]
            assert top[: len(best)].tolist() == best.tolist()
            assert (top[len(best) :] == -1).all()
        else:
            candidates = problem.evaluation_negatives[split == "test"][user]
            others = scores[candidates[candidates >= 0]]
            expected = [(others >= scores[item]).sum() for item in held_out]
            assert ranks[f"{split}_sampled"][user].tolist() == expected


def test_trained_scores_what_a_client_has_just_trained() -> None:
    """CGFedRec's clients keep their tables: the ranks are those of the state after the round."""
    problem, method = small(USERS), tiny("cgfedrec")
    _check_scores(method, problem, run_engine(make_engine(method, problem, chunk=7)))


def test_pfedrec_trained_is_scored_before_the_mean_and_downloaded_after() -> None:
    problem, method = small(USERS), tiny("pfedrec")
    engine = make_engine(method, problem, chunk=7)
    state, (clients, server), outcomes = run_engine(engine)
    at_download = engine.evaluate(state, 2)
    for user in range(problem.num_users):
        head = clients.head
        scores = server.items @ head["kernel"][user, 0] + head["bias"][user, 0]
        _check_ranks(problem, user, scores, at_download)
    assert any((outcomes[-1].ranks[k] != at_download[k]).any() for k in at_download)


@pytest.mark.parametrize("clients", [None, 6])
def test_popularity_is_popularity(clients) -> None:
    problem = small(clients=clients)
    _, (_, server), outcomes = run_engine(
        make_engine(methods.popularity(), problem, evaluate_at="download"), rounds=1
    )
    counts = np.bincount(problem.train.values, minlength=problem.num_items)
    np.testing.assert_array_equal(server.counts, counts)
    ranks = outcomes[0].ranks
    hits = gains = 0.0
    for user in range(problem.num_users):
        _check_ranks(problem, user, counts, ranks)
        candidates = problem.evaluation_negatives[1][user]
        (item,) = problem.test[user]
        rank = (counts[candidates[candidates >= 0]] >= counts[item]).sum()
        hits += rank < 10
        gains += 1 / np.log2(rank + 2) if rank < 10 else 0.0
    sampled = ranks["test_sampled"]
    assert mean(hit_ratio(sampled, 10)) == pytest.approx(hits / problem.num_users)
    assert mean(ndcg(sampled, 10)) == pytest.approx(gains / problem.num_users)


# Divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pfedrec", "fedmf"])
def test_an_absurd_rate_stops_with_round_and_client(name) -> None:
    engine = make_engine(tiny(name, lr=1e30, item_lr_scale=1.0), small(USERS), chunk=7)
    with pytest.raises(TrainingError, match=r"diverged in round \d: client \d+ .*lower --lr"):
        run_engine(engine, rounds=5)
