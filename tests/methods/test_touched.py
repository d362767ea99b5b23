"""The rows that a round touches: which they are, and that training them alone is the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedjax_rec.batches import Samples, draw_round
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods import touched as module
from fedjax_rec.methods.local_training import LocalTraining, continue_training, fresh_optimizers
from fedjax_rec.methods.touched import touched_rows
from fedjax_rec.models import MF, score
from tests.problems import client_data, small

KEY = jax.random.key(3)
COUNT = 12  # samples
find = jax.jit(touched_rows, static_argnums=1)


@st.composite
def rounds(draw):
    """Samples of a round, any of them invalid, and a number of items below or above theirs."""
    num_items = draw(st.sampled_from([1, 7, 30, 100]))  # 100: by sorting
    items = draw(arrays(np.int32, COUNT, elements=st.integers(0, num_items - 1)))
    valid = draw(arrays(np.bool_, COUNT))
    return Samples(items, np.arange(COUNT, dtype=np.int32) % 3, valid), num_items


@given(rounds())
@settings(max_examples=80, deadline=None)
def test_the_items_of_the_valid_samples_in_order(case) -> None:
    samples, num_items = case
    touched = jax.tree.map(np.asarray, find(samples, num_items))
    expected = np.unique(samples.items[samples.valid])
    assert touched.items.shape == touched.mask.shape == (min(num_items, COUNT),)
    assert touched.items.dtype == np.int32
    assert touched.items.tolist() == [
        *expected,
        *[num_items] * (len(touched.items) - len(expected)),
    ]
    assert touched.mask.tolist() == (np.arange(len(touched.items)) < len(expected)).tolist()


@given(rounds())
@settings(max_examples=80, deadline=None)
def test_new_names_lead_back_to_the_items(case) -> None:
    samples, num_items = case
    touched = jax.tree.map(np.asarray, find(samples, num_items))
    rows = touched.samples.items
    assert (rows >= 0).all()
    assert (rows < len(touched.items)).all()
    assert touched.items[rows][samples.valid].tolist() == samples.items[samples.valid].tolist()
    assert touched.mask[rows[samples.valid]].all()
    np.testing.assert_array_equal(touched.samples.users, samples.users)
    np.testing.assert_array_equal(touched.samples.valid, samples.valid)


@given(rounds())
@settings(max_examples=40, deadline=None)
def test_rows_of_a_table_and_back(case) -> None:
    """A gather, and a scatter that drops the padding: only the touched rows are written."""
    samples, num_items = case
    touched = find(samples, num_items)
    table = np.arange(3 * num_items, dtype=np.float32).reshape(num_items, 3)
    rows = np.asarray(touched.rows(table))
    mask, items = np.asarray(touched.mask), np.asarray(touched.items)
    np.testing.assert_array_equal(rows[mask], table[items[mask]])
    assert np.isfinite(rows).all()
    written = jnp.asarray(table).at[touched.items].set(-rows - 1, mode="drop")
    changed = (np.asarray(written) != table).any(axis=1)
    assert np.flatnonzero(changed).tolist() == items[mask].tolist()


@pytest.mark.parametrize("count", [1, 2, 37, 64])
@pytest.mark.parametrize("room", [0, 1])
def test_packed_and_paired_sorts_give_one_order(count, room) -> None:
    """The largest catalogue whose items fit beside the samples' places in 32 bits, and the next."""
    num_items = 2 ** (32 - max(count - 1, 1).bit_length()) - 1 + room
    num_items = min(num_items, 2**31 - 1)
    rng = np.random.default_rng(count)
    named = rng.choice([0, 1, num_items - 1, num_items], count).astype(np.int32)
    ordered, place = jax.jit(module._sorted_places, static_argnums=1)(named, num_items)
    expected = np.argsort(named, kind="stable")
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(ordered, named[expected])


def test_nobody_touches_nothing() -> None:
    samples = Samples(*(np.zeros(COUNT, x) for x in (np.int32, np.int32, bool)))
    touched = find(samples, 30)
    assert not touched.mask.any()
    assert (np.asarray(touched.items) == 30).all()
    assert (np.asarray(touched.samples.items) == 0).all()


def test_side_by_side_is_one_by_one() -> None:
    rng = np.random.default_rng(0)
    many = Samples(
        rng.integers(0, 30, (4, COUNT)).astype(np.int32),
        np.zeros((4, COUNT), np.int32),
        rng.random((4, COUNT)) < [[0.0], [0.3], [0.8], [1.0]],
    )
    together = jax.jit(jax.vmap(lambda samples: touched_rows(samples, 30)))(many)
    for client in range(4):
        alone = find(jax.tree.map(lambda x, k=client: x[k], many), 30)
        jax.tree.map(lambda x, y, k=client: np.testing.assert_array_equal(x[k], y), together, alone)


# Training -----------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("options", "num_items"))
def both_forms(key, user, table, data, *, options, num_items):
    """A round on the whole table, and the same round on its touched rows."""
    model = MF(data.num_users)

    def objective(user, rows, batch):
        logits = score(model, user, batch.users, rows)
        return binary_cross_entropy(logits, batch.labels, batch.mask)

    def train(items, samples):
        return continue_training(
            *(key, objective, user, items, fresh_optimizers(user, items, options), data, options),
            user_first=False,
            samples=samples,
            num_items=num_items,
        )

    samples = draw_round(key, data, num_items, options.negatives)
    touched = touched_rows(samples, num_items)
    return touched, train(table, samples), train(touched.rows(table), touched.samples)


@pytest.mark.parametrize(
    ("optimizer", "decay", "clients"),
    [("sgd", 0.0, None), ("adam", 0.05, None), ("adam", 0.0, 6), ("sgd", 0.05, 6)],
)
def test_touched_rows_train_as_in_the_whole_table(optimizer, decay, clients) -> None:
    """Users, touched rows and loss; the items' rate is set by the number of items of the whole."""
    options = LocalTraining(
        **{"dim": 4, "optimizer": optimizer, "lr": 0.05, "item_lr_scale": 0.02, "batch_size": 8},
        **{"negatives": 2, "local_epochs": 3, "weight_decay": decay},
    )
    items = 60  # a user's samples touch some of them, a silo's nearly all
    data = client_data(small(items=items, clients=clients), 1)
    data = data._replace(longest=data.positives + 3)  # with batches of padding
    user_key, table_key = jax.random.split(jax.random.key(4))
    user = {"embedding": 0.5 * jax.random.normal(user_key, (data.num_users, 4))}
    table = 0.5 * jax.random.normal(table_key, (items, 4))
    touched, dense, sparse = both_forms(KEY, user, table, data, options=options, num_items=items)

    mask, rows = np.asarray(touched.mask), np.asarray(touched.items)
    assert 0 < mask.sum() < items
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        np.asarray(sparse.items)[mask], np.asarray(dense.items)[rows[mask]], **close
    )
    np.testing.assert_allclose(sparse.user["embedding"], dense.user["embedding"], **close)
    assert float(sparse.info.loss) == pytest.approx(float(dense.info.loss), rel=1e-5)
    moved = np.abs(np.asarray(dense.items) - table).max(axis=1)
    assert (moved[rows[mask]] > 1e-3).mean() > 0.9  # the comparison sees steps
    if not decay:
        untouched = np.setdiff1d(np.arange(items), rows[mask])
        assert (moved[untouched] == 0).all()
