"""Where clients live: each once, each with its own data, padded by little."""

from itertools import combinations, pairwise
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data import forbidden_items, make_problem, synthetic
from fedjax_rec.simulation import layout
from fedjax_rec.simulation.layout import lay_out
from tests.problems import listed, small

ITEMS = 30


@st.composite
def federations(draw):
    """Clients of one to three users, users with any disjoint lists; a client may hold nothing."""
    most = draw(st.sampled_from([1, 3]))
    users_per_client = draw(st.lists(st.integers(1, most), min_size=1, max_size=9))
    starts = np.cumsum([0, *users_per_client])
    parts: list[list[list[int]]] = [[], [], []]
    for _ in range(starts[-1]):
        items = draw(st.permutations(range(ITEMS)))
        cuts = np.cumsum([0, *(draw(st.integers(0, most)) for most in (12, 2, 3))])
        for part, (a, b) in zip(parts, pairwise(cuts), strict=True):
            part.append(items[a:b])
    if not any(parts[0]):
        parts[0][0] = [0]
        parts[1][0] = parts[2][0] = []
    train, validation, test = parts
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    candidates = tuple(rng.integers(-1, ITEMS, (starts[-1], 99)).astype(np.int32) for _ in range(2))
    return listed(
        train,
        ITEMS,
        protocol=draw(st.sampled_from(["leak-free", "published"])),
        validation=validation,
        test=test,
        client_starts=starts,
        candidates=draw(st.sampled_from([None, candidates])),
    )


@given(federations(), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_every_client_lives_once_with_its_own_data(problem, devices) -> None:
    with mock.patch.object(layout, "_ACCEPTED_ENTRIES", 0):  # else all in one bucket
        laid = lay_out(problem, devices)
    assert laid.rows == -(-problem.num_clients // devices)
    assert len(laid.client_of_row) == devices * laid.rows
    used = laid.client_of_row >= 0
    assert sorted(laid.client_of_row[used]) == list(range(problem.num_clients))
    rows = laid.row_of_client
    assert laid.client_of_row[rows].tolist() == list(range(problem.num_clients))
    # Unused rows come first on their devices, where the smallest clients are.
    assert (np.flatnonzero(~used) % laid.rows == 0).all()

    bounds = [(bucket.start, bucket.stop) for bucket in laid.buckets]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == laid.rows
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    for bucket in laid.buckets:
        every = laid.client_of_row.reshape(devices, -1)[:, bucket.start : bucket.stop]
        np.testing.assert_array_equal(bucket.clients, every)
        for device, row in np.ndindex(bucket.clients.shape):
            one = jax.tree.map(lambda x, at=(device, row): x[at], (bucket.data, bucket.held_out))
            _check_client(problem, int(bucket.clients[device, row]), *one)


def _check_client(problem, client, data, held_out) -> None:
    """A client's padded arrays, decoded, are its lists."""
    assert int(data.client) == client
    if client < 0:
        assert int(data.positives) == int(held_out.users) == 0
        for lists in (held_out.seen, held_out.validation, held_out.test):
            assert (lists == -1).all()
        return
    users = range(problem.client_starts[client], problem.client_starts[client + 1])
    assert int(held_out.users) == len(users)
    avoided = forbidden_items(problem)
    positives = [(item, slot) for slot, user in enumerate(users) for item in problem.train[user]]
    count = int(data.positives)
    assert count == len(positives)
    pairs = zip(data.items[:count].tolist(), data.users[:count].tolist(), strict=True)
    assert list(pairs) == positives
    assert (data.items[count:] == 0).all()

    slots = data.num_users
    assert slots == problem.users_per_client.max()
    if slots > 1:
        assert data.allowed is None
    else:
        allowed = np.setdiff1d(np.arange(ITEMS), avoided[users[0]])
        assert data.allowed[: len(allowed)].tolist() == allowed.tolist()
    for slot in range(slots):
        start, stop = data.forbidden_starts[slot : slot + 2]
        decoded = data.forbidden[start:stop] + np.arange(stop - start)
        lists = (held_out.seen[slot], held_out.validation[slot], held_out.test[slot])
        kept = [x[x >= 0].tolist() for x in lists]
        if slot >= len(users):
            assert len(decoded) == 0
            assert kept == [[], [], []]
            continue
        user = users[slot]
        assert decoded.tolist() == avoided[user].tolist()
        parts = (problem.train, problem.validation, problem.test)
        assert kept == [part[user].tolist() for part in parts]
        if problem.evaluation_negatives is None:
            assert held_out.candidates is None
        else:
            for which, candidates in enumerate(problem.evaluation_negatives):
                np.testing.assert_array_equal(held_out.candidates[slot, which], candidates[user])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_cuts_against_brute_force(lengths) -> None:
    """The fewest ranges that leave at most a quarter of padding, and of those the least padded."""
    ascending = np.sort(lengths)
    with mock.patch.object(layout, "_ACCEPTED_ENTRIES", 0):
        got = layout._cut(ascending)
    assert [a for a, _ in got] == [0, *(b for _, b in got[:-1])]
    assert got[-1][1] == len(ascending)
    for number in range(1, layout._MAX_BUCKETS + 1):
        best = min(
            (
                _padded(ascending, cuts)
                for inner in combinations(range(1, len(ascending)), number - 1)
                for cuts in [list(pairwise([0, *inner, len(ascending)]))]
            ),
            default=np.inf,
        )
        if best <= 1.25 * ascending.sum() or number == layout._MAX_BUCKETS:
            break
    assert len(got) == number
    assert _padded(ascending, got) == best


def _padded(lengths, cuts):
    return sum((b - a) * int(lengths[b - 1]) for a, b in cuts)


@pytest.mark.parametrize("seed", range(5))
def test_more_distinct_lengths_than_are_tried_as_cuts(seed) -> None:
    ascending = np.sort(np.random.default_rng(seed).geometric(0.0005, 1500))
    assert len(np.unique(ascending)) > 600
    got = layout._cut(ascending)
    assert [a for a, _ in got] == [0, *(b for _, b in got[:-1])]
    assert got[-1][1] == len(ascending)
    assert len(got) == layout._MAX_BUCKETS
    even = [round(x) for x in np.linspace(0, len(ascending), layout._MAX_BUCKETS + 1)]
    assert _padded(ascending, got) < 0.9 * _padded(ascending, list(pairwise(even)))


def test_lookup_tables_stay_small() -> None:
    """Beyond a number of entries negatives are searched for: no table of clients by items."""
    problem = small()
    entries = problem.num_clients * problem.num_items
    for limit, there in ((entries, True), (entries - 1, False)):
        with mock.patch.object(layout, "_LOOKUP_ENTRIES", limit):
            (bucket,) = lay_out(problem, 1).buckets
        assert (bucket.data.allowed is not None) == there


def test_small_federations_compile_once() -> None:
    """Padding that costs less than a compilation is accepted."""
    assert len(lay_out(small(), 1).buckets) == 1


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_long_tails_are_cut(devices) -> None:
    problem = make_problem(synthetic(users=600, items=200, interactions_per_user=40), split="ratio")
    with mock.patch.object(layout, "_ACCEPTED_ENTRIES", 0):
        laid = lay_out(problem, devices)
    assert 1 < len(laid.buckets) <= layout._MAX_BUCKETS
    widths = [bucket.data.items.shape[-1] for bucket in laid.buckets]
    assert widths == sorted(widths)
    padded = sum(bucket.data.items.size for bucket in laid.buckets)
    assert padded <= 1.3 * len(problem.train.values)
    loads = [
        sum(int(bucket.data.positives[device].sum()) for bucket in laid.buckets)
        for device in range(devices)
    ]
    assert max(loads) <= 1.05 * min(loads)  # dealt out like cards
