"""The benchmark of sampled denominators at toy size, and what it compares with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrast_sample import ContrastSampleOptions, derivative_of_the_value, estimate, run

from fedjax_rec.losses import supervised_contrastive
from tests.benchmarks.test_scripts import checked


def _rows(part, folder, **options):
    table = run(ContrastSampleOptions(part=part, toy=True, results=folder, **options))
    return checked(table, folder)


def test_the_other_estimator_has_the_same_value_and_its_own_gradient() -> None:
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.normal(size=(30, 4)), jnp.float32)
    labels = jnp.asarray([*rng.integers(0, 5, 28), 7, 8])  # two items alone
    for sample in (jnp.arange(30), jnp.asarray(rng.permutation(30)[:10])):

        def ours(e, sample=sample):
            return supervised_contrastive(e, labels, sample=sample)

        expected_value, expected = jax.value_and_grad(ours)(items)
        value, gradient = jax.value_and_grad(derivative_of_the_value)(items, labels, sample)
        assert float(value) == pytest.approx(float(expected_value), rel=1e-5)
        agree = np.allclose(gradient, expected, atol=1e-5)
        assert agree == (len(sample) == 30)


def test_estimates_of_a_known_error() -> None:
    exact = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    off = jnp.array([[0.0, 1.0], [0.0, 0.0]])

    def loss(items, sample):
        return 2.0 + sample[0], exact + (2 * sample[0] - 1) * off

    found = estimate(loss, exact, (2.0, exact), jnp.array([[0], [1]]))
    assert found.bias == 0.5
    assert found.error == pytest.approx(1 / 5)
    assert found.cosine == pytest.approx(5 / np.sqrt(26))
    assert found.mean_error == 0


@pytest.mark.slow
def test_error(tmp_path) -> None:
    rows = _rows("error", tmp_path, clients=2, train_clients=4, train_rounds=2, draws=3)
    assert [row["N"] for row in rows] == [16, 32, 60] * 3
    for row in rows:
        assert (row["gradient error"] < 1e-4) == (row["N"] == row["items"])
    assert rows[0]["gradient error"] > rows[1]["gradient error"]


@pytest.mark.slow
def test_step(tmp_path) -> None:
    rows = _rows("step", tmp_path, dims=(8,), turns=1)
    assert [(row["N"], row["loss"]) for row in rows] == [(64, "sampled"), (600, "exact")]
    assert rows[0]["temporary MB"] < rows[1]["temporary MB"]
    assert rows[1]["times as fast"] == 1


@pytest.mark.slow
def test_plan(tmp_path) -> None:
    rows = _rows("plan", tmp_path, turns=1)
    for row in rows:
        hours = (row["s a client"] * 94_762 + row["clustering s a round"]) / 3600
        assert row["h a round of 94,762 (extrapolated)"] == pytest.approx(hours)


@pytest.mark.slow
def test_quality(tmp_path) -> None:
    rows = _rows("quality", tmp_path, init_stds=(0.01,), rounds=3)
    assert [row["loss"] for row in rows] == ["sampled", "exact"]
    assert all(0 <= row["NDCG@10"] <= row["HR@10"] <= 100 for row in rows)
