"""The fusion's pieces alone: the teacher's pull and weight, means of groups, the network's fit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.batches import Batch, Samples
from fedjax_rec.losses import bernoulli_kl, binary_cross_entropy
from fedjax_rec.methods.fusion_server import (
    GroupMeans,
    Training,
    group_means,
    group_preferences,
    train_network,
)
from fedjax_rec.methods.fusion_teacher import Teacher, loss_ratio, moving_average, schedule
from fedjax_rec.models import FusionNetwork

KEY = jax.random.key(0)


def batch(items, labels, mask):
    return Batch(jnp.array(items), jnp.int32(0), jnp.array(labels, float), jnp.array(mask))


def test_the_pull_is_a_gradient_alone_and_the_labels_become_soft() -> None:
    teacher = Teacher(jnp.array([0.9, 0.2, 0.5, 0.7]), jnp.float32(3.0))
    one = batch([3, 0, 1, 1], [1, 0, 0, 1], [True, True, True, False])
    logits = jnp.array([0.3, -1.0, 2.0, 5.0])
    value, gradient = jax.value_and_grad(teacher.pull)(logits, one)
    assert float(value) == 0
    p = teacher.preference[one.items]
    by_hand = 3.0 * jax.grad(bernoulli_kl)(logits, p, one.mask)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-6)

    def soft(x):
        return 4.0 * binary_cross_entropy(x, (one.labels + 3.0 * p) / 4.0, one.mask)

    def both(x):
        return binary_cross_entropy(x, one.labels, one.mask) + teacher.pull(x, one)

    np.testing.assert_allclose(jax.grad(both)(logits), jax.grad(soft)(logits), atol=1e-6)
    assert float(both(logits)) == float(binary_cross_entropy(logits, one.labels, one.mask))


def test_a_teacher_of_some_items() -> None:
    teacher = Teacher(jnp.array([0.1, 0.2, 0.3]), jnp.float32(1.0))
    np.testing.assert_allclose(teacher.of(jnp.array([2, 0, 3])).preference[:2], [0.3, 0.1])


def test_schedules() -> None:
    for kind, expected in {
        "cosine": [math.cos(math.pi * min(t, 8) / 16) for t in range(12)],
        "linear": [min(t / 8, 1) for t in range(12)],
        "exponential": [1 - math.exp(-t / 10) for t in range(12)],
        "constant": [1.0] * 12,
    }.items():
        found = [float(schedule(kind, jnp.int32(t), 8)) for t in range(12)]
        assert found == pytest.approx(expected, abs=1e-6)


@given(
    st.sampled_from(["cosine", "linear", "exponential", "constant"]),
    st.integers(0, 10**6),
    st.integers(1, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_schedules_are_shares(kind, passed, rounds) -> None:
    assert 0 <= float(schedule(kind, jnp.int32(passed), rounds)) <= 1


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_the_ratio_of_the_losses(limit) -> None:
    rng = np.random.default_rng(0)
    logits, p = rng.normal(size=9), rng.uniform(0.1, 0.9, 5)
    items = rng.integers(0, 5, 9)
    valid = np.arange(9) < 6
    labels = (np.arange(9) % 3 == 0).astype(float)
    samples = Samples(jnp.array(items), jnp.zeros(9, jnp.int32), jnp.array(valid))
    q = 1 / (1 + np.exp(-logits))
    t = p[items]
    entropy = -(labels * np.log(q) + (1 - labels) * np.log(1 - q))[valid].mean()
    divergence = (t * np.log(t / q) + (1 - t) * np.log((1 - t) / (1 - q)))[valid].mean()
    found = loss_ratio(jnp.array(logits), jnp.array(p), samples, 3, limit)
    assert float(found) == pytest.approx(min(entropy / divergence, limit), rel=1e-4)


def test_the_ratio_stays_finite() -> None:
    """Where predictions and preference agree, where both losses are 0, and without samples."""
    samples = Samples(jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32), jnp.ones(2, bool))
    agree = loss_ratio(jnp.zeros(2), jnp.array([0.5]), samples, 1, 10.0)
    assert float(agree) == pytest.approx(10)
    assert float(loss_ratio(jnp.full(2, 1e4), jnp.array([1.0]), samples, 1, 10.0)) == 0
    nobody = samples._replace(valid=jnp.zeros(2, bool))
    assert float(loss_ratio(jnp.zeros(2), jnp.array([0.2]), nobody, 1, 10.0)) == 0


def test_the_moving_average_begins_with_the_first() -> None:
    assert float(moving_average(jnp.float32(0), jnp.float32(4), 0.9)) == 4
    assert float(moving_average(jnp.float32(2), jnp.float32(4), 0.9)) == pytest.approx(2.2)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_means_of_groups_against_numpy(seed) -> None:
    rng = np.random.default_rng(seed)
    tables, heads = rng.normal(size=(8, 5, 2)), rng.normal(size=(8, 3))
    group = rng.integers(-1, 3, 8)
    tables[group < 0] = np.nan  # what is nobody's may be anything
    means = jax.jit(group_means, static_argnums=3)(
        jnp.array(tables), jnp.array(heads), jnp.array(group), 4
    )
    for g in range(4):
        mine = group == g
        assert bool(means.present[g]) == mine.any()
        table = tables[mine].mean(axis=0) if mine.any() else np.zeros((5, 2))
        head = heads[mine].mean(axis=0) if mine.any() else np.zeros(3)
        np.testing.assert_allclose(means.tables[g], table, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(means.heads[g], head, rtol=1e-5, atol=1e-6)


def fit(tables, content, *, present=None, kind="mlp", epochs=60):
    g, _, d = tables.shape
    model = FusionNetwork(g, d, 16, kind)
    parameters = model.init(jax.random.key(1), content)["params"]
    present = jnp.ones(g, bool) if present is None else present
    means = GroupMeans(jnp.array(tables), jnp.zeros((g, 1)), present)
    return jax.jit(train_network, static_argnums=(1, 5))(
        KEY, model, parameters, content, means, Training(epochs, 16, 3e-3)
    )


@pytest.mark.parametrize("kind", ["mlp", "gate", "sum", "attention"])
@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_the_network_learns_what_content_tells(kind, size) -> None:
    """A planted linear map, other for each group in its offset, at any size of the tables."""
    rng = np.random.default_rng(0)
    content = [rng.normal(size=(90, 6)).astype(np.float32)]  # the last batch is a short one
    truth = content[0] @ rng.normal(size=(6, 4)) + rng.normal(size=(2, 1, 4))
    tables = (size * truth).astype(np.float32)
    _, fused, error = fit(tables, content, epochs=150)
    assert float(error) < 0.15
    spread = ((tables - tables.mean(axis=1, keepdims=True)) ** 2).mean()
    left = ((np.asarray(fused) - tables) ** 2).mean()
    assert float(error) == pytest.approx(left / spread, rel=1e-3)


def test_content_that_tells_nothing_leaves_the_mean() -> None:
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2, 90, 4)).astype(np.float32)
    _, _, error = fit(tables, [np.ones((90, 3), np.float32)])
    assert 0.95 < float(error) < 1.3


def test_a_group_of_nobody_does_not_count() -> None:
    rng = np.random.default_rng(0)
    content = [rng.normal(size=(40, 6)).astype(np.float32)]
    tables = np.stack([np.zeros((40, 2), np.float32), content[0][:, :2]])
    _, fused, error = fit(tables, content, present=jnp.array([False, True]), epochs=150)
    left = ((np.asarray(fused[1]) - tables[1]) ** 2).mean()
    spread = ((tables[1] - tables[1].mean(axis=0)) ** 2).mean()
    assert float(error) == pytest.approx(left / spread, rel=1e-3)
    assert float(error) < 0.15
    # Nothing has made it fit the table of zeros.
    assert np.abs(np.asarray(fused[0])).mean() > 0.1


def test_preferences_are_each_groups_own() -> None:
    rng = np.random.default_rng(0)
    heads, tables = rng.normal(size=(3, 2)), rng.normal(size=(3, 5, 2))
    found = group_preferences(lambda h, x: x @ h, jnp.array(heads), jnp.array(tables))
    expected = 1 / (1 + np.exp(-np.einsum("gmd,gd->gm", tables, heads)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
