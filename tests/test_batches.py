"""Negatives, shuffling and batches: exact, uniform, every sample once, whatever the padding."""

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fedjax_rec import batches
from fedjax_rec.batches import (
    ClientData,
    draw_round,
    draw_samples,
    for_each_batch,
    sample_negatives,
)
from fedjax_rec.data import make_problem, synthetic
from tests.problems import client_data, listed, small

KEY = jax.random.key(0)
uint32 = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**32 - 1])


@given(arrays(np.uint32, 32, elements=uint32), arrays(np.uint32, 32, elements=uint32))
@settings(max_examples=50, deadline=None)
def test_multiply_high_against_python_integers(a, b) -> None:
    exact = [(int(x) * int(y)) >> 32 for x, y in zip(a, b, strict=True)]
    assert np.asarray(jax.jit(batches._multiply_high)(a, b)).tolist() == exact


# Negatives ------------------------------------------------------------------------------------

ITEMS, USERS = 12, 3
negatives_of = jax.jit(sample_negatives, static_argnums=(2, 3))


@st.composite
def silos(draw):
    """A client of three users with any forbidden items each (never all), padded to one shape."""
    forbidden = [
        sorted(draw(st.sets(st.integers(0, ITEMS - 1), max_size=ITEMS - 1))) for _ in range(USERS)
    ]
    shifted = [item - rank for items in forbidden for rank, item in enumerate(items)]
    total = len(shifted)
    data = ClientData(
        client=np.int32(0),
        positives=np.int32(USERS),
        items=np.zeros(USERS, np.int32),
        users=np.arange(USERS, dtype=np.int32),
        forbidden=np.array(shifted + [0] * (ITEMS * USERS - total), np.int32),
        forbidden_starts=np.cumsum([0, *map(len, forbidden)]).astype(np.int32),
        longest=np.int32(USERS),
    )
    return forbidden, jax.tree.map(jnp.asarray, data)


@given(silos())
@settings(max_examples=60, deadline=None)
def test_every_rank_maps_to_its_allowed_item(silo) -> None:
    """All ranks in turn instead of random ones: the draws are the allowed items, in order."""
    forbidden, data = silo
    allowed = [sorted(set(range(ITEMS)) - set(items)) for items in forbidden]
    ranks = np.stack([np.arange(ITEMS) % len(items) for items in allowed])
    counts = np.array([[len(items)] for items in allowed])
    lowest = -(-(ranks << 32) // counts)  # the smallest 32 bits that give this rank
    highest = ((ranks + 1 << 32) - 1) // counts
    for bits in (lowest, highest):
        drawn = np.asarray(_drawn_from(bits.astype(np.uint32), data))
        for user, items in enumerate(allowed):
            assert drawn[user].tolist() == [items[rank] for rank in ranks[user]]


@jax.jit
def _drawn_from(bits, data):
    """Negatives from given bits."""
    with mock.patch.object(batches, "_random_words", return_value=bits):
        return sample_negatives(KEY, data, ITEMS, ITEMS)


@pytest.mark.parametrize("protocol", ["leak-free", "published"])
def test_looking_up_and_searching_draw_the_same(protocol) -> None:
    data = client_data(small(protocol=protocol), 3)
    assert data.allowed is not None
    searched = negatives_of(KEY, data._replace(allowed=None), 40, 50)
    np.testing.assert_array_equal(negatives_of(KEY, data, 40, 50), searched)


def test_negatives_are_uniform_over_the_allowed_items() -> None:
    problem = listed([[0, 3, 4, 9], [1, 2]], 10, client_starts=[0, 2])
    data = client_data(problem, 0)
    drawn = np.asarray(negatives_of(KEY, data, 10, 5000))
    for user, forbidden in enumerate([[0, 3, 4, 9], [1, 2]]):
        mine = drawn[np.asarray(data.users)[: int(data.positives)] == user]
        counts = np.bincount(mine.reshape(-1), minlength=10)
        assert (counts[forbidden] == 0).all()
        assert stats.chisquare(np.delete(counts, forbidden)).pvalue > 1e-3


def test_one_allowed_item_is_always_drawn() -> None:
    data = client_data(listed([[0, 1, 3]], 4), 0)
    assert (np.asarray(negatives_of(KEY, data, 4, 50)) == 2).all()


@pytest.mark.parametrize("clients", [None, 5])
@pytest.mark.parametrize("protocol", ["leak-free", "published"])
def test_held_out_items_occur_under_leak_free_and_never_under_published(protocol, clients) -> None:
    problem = small(protocol=protocol, clients=clients)
    wanted = met = 0
    for client in range(problem.num_clients):
        data = client_data(problem, client)
        drawn = np.asarray(negatives_of(KEY, data, problem.num_items, 300))[: int(data.positives)]
        first = problem.client_starts[client]
        for user in range(first, problem.client_starts[client + 1]):
            mine = drawn[np.asarray(data.users)[: int(data.positives)] == user - first]
            assert not np.isin(mine, problem.train[user]).any()
            held_out = np.concatenate([problem.validation[user], problem.test[user]])
            wanted += len(held_out)
            met += np.isin(held_out, mine).sum()
    # 300 draws or more from at most 40 items: to miss one has probability below 0.0005.
    assert met == (wanted if protocol == "leak-free" else 0)


# Random bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_random_words_of_a_row_do_not_depend_on_the_number_of_rows(columns) -> None:
    many = np.asarray(batches._random_words(KEY, 1000, columns))
    assert many.shape == (1000, columns)
    assert many.dtype == np.uint32
    for rows in (1, 2, 7):
        np.testing.assert_array_equal(batches._random_words(KEY, rows, columns), many[:rows])
    assert (
        many != np.asarray(batches._random_words(jax.random.key(1), 1000, columns))
    ).mean() > 0.99
    # Of 4,000 words at most 2³² values, two alike have probability 0.002.
    assert len(np.unique(many)) >= many.size - 1


def test_random_words_are_uniform_bit_by_bit() -> None:
    words = np.asarray(batches._random_words(KEY, 5000, 4)).reshape(-1)
    ones = (words[:, None] >> np.arange(32, dtype=np.uint32) & 1).sum(axis=0)
    # 32 counts of 20,000 coin flips: 5 standard deviations are 354.
    assert (np.abs(ones.astype(int) - 10_000) < 354).all()


# Shuffling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 37, 2**16 - 1, 2**16, 2**16 + 1, 140_000])
def test_shuffle_is_a_permutation_with_the_valid_first(total) -> None:
    shuffle = jax.jit(batches._shuffle)
    for used in {0, 1, total // 2, total}:
        order = np.asarray(shuffle(KEY, jnp.arange(total) < used))
        assert sorted(order.tolist()) == list(range(total))
        assert (order[:used] < used).all()
    if total > 2:
        assert order.tolist() != list(range(total))
        assert (
            order.tolist() != np.asarray(shuffle(jax.random.key(1), jnp.ones(total, bool))).tolist()
        )


def test_padding_stays_behind_the_largest_random_bits() -> None:
    """A valid sample may draw the very bits that padding has."""
    valid = jnp.arange(6) < 3
    with mock.patch.object(
        batches, "_random_words", return_value=jnp.full((2, 2), 2**32 - 1, jnp.uint32)
    ):
        assert np.asarray(batches._shuffle(KEY, valid)).tolist() == [0, 1, 2, 3, 4, 5]


def test_both_sorts_give_one_order() -> None:
    """A client at the border may be packed in one layout and not in another."""
    valid = jnp.arange(500) < 400
    packed = np.asarray(batches._shuffle(KEY, valid))
    with mock.patch.object(batches, "_PACKED_INDEX_BITS", 5):
        pairs = np.asarray(batches._shuffle(KEY, valid))
    assert packed.tolist() == pairs.tolist()


def test_all_orders_are_equally_likely() -> None:
    keys = jax.random.split(KEY, 4800)
    orders = np.asarray(jax.jit(jax.vmap(batches._shuffle, (0, None)))(keys, jnp.arange(5) < 4))
    assert (orders[:, 4] == 4).all()
    _, counts = np.unique(orders[:, :4], axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


# Batches --------------------------------------------------------------------------------------

NEGATIVES, SIZE, EPOCHS = 3, 8, 2
SLOTS = 200  # room for more batches than any client has
OPTIONS = {"num_items": 40, "negatives": NEGATIVES, "batch_size": SIZE, "epochs": EPOCHS}


draw = jax.jit(draw_samples, static_argnums=(2, 3))


@partial(jax.jit, static_argnames="users")
def record(key, data, samples=None, samples_key=None, *, users):
    """All batches of a round in the order in which they came, [SLOTS, B] each, and their number."""
    names = () if samples is None else samples.items.shape[1:]
    rows, blank = jnp.full((SLOTS, SIZE, *names), -1), jnp.full((SLOTS, SIZE), -1)

    def step(carry, batch):
        count, items, owners, labels, mask = carry
        assert jnp.ndim(batch.users) == (1 if users else 0)
        return (
            count + 1,
            items.at[count].set(batch.items),
            owners.at[count].set(batch.users),
            labels.at[count].set(batch.labels.astype(jnp.int32)),
            mask.at[count].set(batch.mask.astype(jnp.int32)),
        )

    carry = (jnp.int32(0), rows, *[blank] * 3)
    own = {"samples": samples, "samples_key": samples_key}
    return for_each_batch(key, data, step, carry, **own, **OPTIONS)


def _epochs(data, users):
    """Each epoch's samples as (item, user, label), in order, and its masks."""
    count, items, owners, labels, mask = map(np.asarray, record(KEY, data, users=users))
    assert count % EPOCHS == 0
    length = count // EPOCHS
    for epoch in range(EPOCHS):
        part = slice(epoch * length, (epoch + 1) * length)
        masks = mask[part].reshape(-1)
        rows = np.stack([x[part].reshape(-1) for x in (items, owners, labels)], axis=1)
        yield rows[masks == 1].tolist(), masks


@pytest.mark.parametrize("clients", [None, 5])
def test_every_sample_once_an_epoch(clients) -> None:
    problem = small(clients=clients)
    for client in (0, problem.num_clients - 1):
        data = client_data(problem, client)
        data = data._replace(longest=data.positives)
        samples = draw(jax.random.fold_in(KEY, 0), data, 40, NEGATIVES)
        used = int(data.positives) * (1 + NEGATIVES)
        label = np.arange(len(samples.items)) % (1 + NEGATIVES) == 0
        every = np.stack([samples.items, samples.users, label], axis=1)[np.asarray(samples.valid)]
        assert len(every) == used
        positives = every[every[:, 2] == 1][:, :2].tolist()
        first = problem.client_starts[client]
        assert positives == [
            [int(item), user - first]
            for user in range(first, problem.client_starts[client + 1])
            for item in problem.train[user]
        ]

        first_epoch, second_epoch = _epochs(data, clients is not None)
        for rows, masks in (first_epoch, second_epoch):
            assert sorted(rows) == sorted(every.tolist())
            assert masks.tolist() == [1] * used + [0] * (-used % SIZE)  # only the last is short
        assert first_epoch[0] != second_epoch[0]


def test_a_longer_group_only_adds_masked_batches() -> None:
    data = client_data(small(), 0)
    alone = list(_epochs(data._replace(longest=data.positives), False))
    among = list(_epochs(data._replace(longest=data.positives + 9), False))
    for (rows, masks), (same_rows, longer) in zip(alone, among, strict=True):
        assert same_rows == rows
        assert len(longer) > len(masks)
        assert longer.tolist() == masks.tolist() + [0] * (len(longer) - len(masks))


@pytest.mark.parametrize("clients", [None, 5])
def test_padding_changes_no_batch(clients) -> None:
    """Buckets, and so paddings, differ with the number of devices; what is trained must not."""
    data = client_data(small(clients=clients), 0)

    def pad(x):
        return jnp.pad(x, (0, 13), constant_values=0)

    wide = data._replace(
        items=pad(data.items), users=pad(data.users), forbidden=pad(data.forbidden)
    )
    samples = draw(KEY, data, 40, NEGATIVES)
    more = draw(KEY, wide, 40, NEGATIVES)
    used = int(data.positives) * (1 + NEGATIVES)
    for narrow, padded in zip(samples, more, strict=True):
        assert np.asarray(narrow)[:used].tolist() == np.asarray(padded)[:used].tolist()
    ours, theirs = (
        list(_epochs(x._replace(longest=data.positives), clients is not None)) for x in (data, wide)
    )
    assert [rows for rows, _ in ours] == [rows for rows, _ in theirs]


@pytest.mark.parametrize("room", [0, 13])
def test_a_batch_is_no_larger_than_what_there_is(room) -> None:
    """Small clients do not pay for rows of padding: their one batch has as many as they have."""
    data = client_data(small(), 0)
    data = data._replace(**{x: jnp.pad(getattr(data, x), (0, room)) for x in ("items", "users")})
    data = data._replace(longest=data.positives)
    samples = draw_round(KEY, data, 40, NEGATIVES)
    assert len(samples.items) < 1000
    seen = []

    def step(count, batch):
        seen.append(batch)
        return count + jnp.sum(batch.mask * (1 + 100 * batch.items + batch.labels))

    with jax.disable_jit():
        total = for_each_batch(KEY, data, step, 0, **{**OPTIONS, "batch_size": 1000})
    assert len(seen) == EPOCHS
    valid = np.asarray(samples.valid)
    labels = np.arange(len(valid)) % (1 + NEGATIVES) == 0
    for batch in seen:
        np.testing.assert_array_equal(batch.items, samples.items)
        np.testing.assert_array_equal(batch.mask, valid)
        np.testing.assert_array_equal(batch.labels, labels)
    expected = np.sum((1 + 100 * np.asarray(samples.items) + labels)[valid])
    assert int(total) == EPOCHS * expected


def test_nobody_has_no_batches() -> None:
    data = client_data(small(), 0)._replace(positives=jnp.int32(0), longest=jnp.int32(0))
    assert int(record(KEY, data, users=False)[0]) == 0


@pytest.mark.parametrize("clients", [None, 5])
def test_a_round_drawn_before_is_the_round(clients) -> None:
    """From the round's own key or from one of the negatives' own; and by other names."""
    data, users = client_data(small(clients=clients), 0), clients is not None
    own_key = jax.random.key(5)
    samples = draw_round(KEY, data, 40, NEGATIVES)
    other = draw_round(KEY, data, 40, NEGATIVES, samples_key=own_key)
    assert (samples.items != other.items).any()
    recorded = record(KEY, data, samples, users=users)
    jax.tree.map(np.testing.assert_array_equal, recorded, record(KEY, data, users=users))
    others = record(KEY, data, other, users=users)
    drawn = record(KEY, data, samples_key=own_key, users=users)
    jax.tree.map(np.testing.assert_array_equal, others, drawn)

    # An item may go by several names, such as rows of several tables: [N, 2] come as [B, 2].
    names = jnp.stack([100 + samples.items, 7 * samples.items], axis=1)
    count, rows, *rest = record(KEY, data, samples._replace(items=names), users=users)
    jax.tree.map(np.testing.assert_array_equal, (count, *rest), (recorded[0], *recorded[2:]))
    items = np.asarray(recorded[1])[: int(count)]
    np.testing.assert_array_equal(rows[: int(count), :, 0], 100 + items)
    np.testing.assert_array_equal(rows[: int(count), :, 1], 7 * items)


def test_training_never_meets_a_held_out_item_as_a_positive() -> None:
    problem = make_problem(synthetic(users=12, items=30, interactions_per_user=8), split="ratio")
    for client in range(problem.num_clients):
        data = client_data(problem, client)
        held_out = np.concatenate([problem.validation[client], problem.test[client]])
        positives = np.asarray(data.items)[: int(data.positives)]
        assert not np.isin(positives, held_out).any()
        assert sorted(positives.tolist()) == problem.train[client].tolist()
