"""The PyTorch loop of RQFedRec takes the steps that the package takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.methods import adam
from fedjax_rec.methods.codebook_fit import Channel, Channels, fit_codebooks, rebuild
from tests.problems import small

torch = pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
import torch_rqfedrec  # noqa: E402

LEVELS, WORDS, DIM, ITEMS = 2, 6, 4, 40
CONFIG = methods.build(
    "rqfedrec",
    **{"dim": DIM, "levels": LEVELS, "codewords": WORDS, "batch_size": 8, "negatives": 2},
    **{"fit_steps": 5, "lr": 0.05, "item_lr": 0.02, "init_std": 0.3},
).config


def channels(weight: float = 0.3) -> Channels:
    rng = np.random.default_rng(0)
    semantic, collaborative = (
        Channel(
            jnp.asarray(rng.normal(size=(LEVELS, WORDS, DIM)), jnp.float32),
            jnp.asarray(rng.integers(0, WORDS, (ITEMS, LEVELS)), jnp.uint8),
        )
        for _ in range(2)
    )
    return Channels(semantic, collaborative, jnp.float32(weight))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fit", ["joint", "separate"])
def test_the_download_and_its_fit(fit):
    config = dataclasses.replace(CONFIG, fit=fit)
    received = torch_rqfedrec.download(channels(), config)
    close(received.items, rebuild(channels()))
    rng = np.random.default_rng(1)
    target = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    importance = rng.integers(0, 4, ITEMS).astype(np.float32)
    found = torch.cat(
        [
            torch_rqfedrec.fit(
                stack, torch.from_numpy(target), torch.from_numpy(importance), config.fit_steps
            )
            for stack in received.stacks
        ]
    )
    expected = jnp.concatenate(fit_codebooks(channels(), target, importance, config))
    close(found, expected.reshape(-1, DIM))


def test_a_resting_channel_is_refused():
    with pytest.raises(ValueError, match="λ = 0"):
        torch_rqfedrec.download(channels(0.0), CONFIG)


def test_training_takes_the_package_s_steps():
    """Whole epochs in one batch each: the order of the samples then does not matter."""
    config = dataclasses.replace(CONFIG, batch_size=1000, local_epochs=3, weight_decay=0.01)
    problem = small(clients=5)
    (client,) = torch_rqfedrec.clients_of(problem, [1], config, seed=0)
    generator = torch.Generator().manual_seed(3)
    samples = torch_rqfedrec.draw(client, config.negatives, generator)
    start = torch_rqfedrec.download(channels(), config).items
    users, items, losses = torch_rqfedrec.train(
        client.users, start, samples, config, generator, num_items=ITEMS
    )

    rows, owners, labels = (np.asarray(each) for each in samples)

    def loss(parameters):
        logits = jnp.sum(parameters["users"][owners] * parameters["items"][rows], axis=1)
        return jnp.mean(jax.nn.softplus(logits) - labels * logits)

    expected = {"users": jnp.asarray(client.users), "items": jnp.asarray(start)}
    rates = {"users": config.lr, "items": config.item_lr}
    states = {name: adam.fresh_adam(expected[name]) for name in expected}
    for found in losses:
        assert found == pytest.approx(float(loss(expected)), rel=1e-4)
        gradient = jax.grad(loss)(expected)
        for name, rate in rates.items():
            expected[name], states[name] = adam.take_adam_step(
                expected[name],
                gradient[name],
                states[name],
                lr=rate,
                weight_decay=config.weight_decay,
            )
    assert len(losses) == 3
    close(users, expected["users"])
    close(items, expected["items"])
    assert np.abs(np.asarray(users) - np.asarray(client.users)).max() > 0.05


def test_samples_are_positives_and_unseen_items():
    problem = small(clients=5)
    (client,) = torch_rqfedrec.clients_of(problem, [2], CONFIG, seed=0)
    samples = torch_rqfedrec.draw(client, 3, torch.Generator().manual_seed(0))
    first = problem.client_starts[2]
    assert len(samples.items) == 4 * len(client.positives)
    for item, user, label in zip(*(each.tolist() for each in samples), strict=True):
        assert (item in problem.train[first + user]) == (label == 1)


def test_a_round_averages_by_positives(monkeypatch):
    problem = small(clients=5)
    clients = torch_rqfedrec.clients_of(problem, range(2), CONFIG, seed=0)
    received = torch_rqfedrec.download(channels(), CONFIG)
    fits = iter([1.0, 2.0, 5.0, 8.0])  # two channels of the first client, two of the second

    def fit(stack, target, importance, steps):
        assert len(stack.rows) == len(target) == len(importance)
        assert steps == CONFIG.fit_steps
        return torch.full_like(stack.table, next(fits))

    monkeypatch.setattr(torch_rqfedrec, "fit", fit)
    found = torch_rqfedrec.run_round(clients, received, CONFIG, seed=5)
    share = len(clients[0].positives) / sum(len(client.positives) for client in clients)
    for table, (first, second) in zip(found.tables, [(1, 5), (2, 8)], strict=True):
        close(table, share * first + (1 - share) * second)
    assert len(found.users) == 2
    assert np.isfinite(found.loss)
    assert min(found.training_seconds, found.fit_seconds) > 0
