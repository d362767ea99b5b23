"""What matrix factorization's training remembers, and its options, against optax and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import methods
from fedjax_rec.batches import draw_samples
from fedjax_rec.methods.fedmf import FedMFConfig
from fedjax_rec.methods.memory import Memory, initial_memory
from fedjax_rec.methods.mf_training import train_mf
from tests.methods import reference
from tests.problems import client_data, small

ITEMS = 40
OPTIONS = {"dim": 4, "lr": 0.05, "item_lr": 0.02, "batch_size": 8, "negatives": 2}


def start(**options):
    config = FedMFConfig(**{**OPTIONS, **options})
    data = client_data(small(), 0)
    data = data._replace(longest=data.positives)
    user_key, items_key = jax.random.split(jax.random.key(5))
    user = {"embedding": 0.5 * jax.random.normal(user_key, (1, 4))}
    items = 0.5 * jax.random.normal(items_key, (ITEMS, 4))
    return config, data, user, items, initial_memory(jax.random.key(6), user, items, config)


def rounds(count, config, data, user, items, memory: Memory):
    for number in range(count):
        user, items, memory, info = train_mf(
            jax.random.key(number), user, items, memory, data, config
        )
    return user, items, memory, info


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("keep", [True, False])
def test_rounds_against_optax_on_dense_gradients(optimizer, loss, keep) -> None:
    """Weight decay on all parameters in every batch, and optimizers with or without a past."""
    options = {"optimizer": optimizer, "loss": loss, "keep_optimizer": keep, "weight_decay": 0.1}
    config, data, user, items, memory = start(**options)
    found_user, found_items, kept, _ = rounds(3, config, data, user, items, memory)
    assert (kept.optimizers == ()) is not keep

    rules = [getattr(optax, optimizer)(rate) for rate in (0.05, 0.02)]

    def objective(user, items, batch):
        rows, labels, mask = batch
        products = user["embedding"][0] * items[rows]
        if loss == "mse":
            each = jnp.mean((products - labels[:, None]) ** 2, axis=1)
        else:
            each = optax.sigmoid_binary_cross_entropy(jnp.sum(products, axis=1), labels)
        return jnp.sum(mask * each) / jnp.sum(mask)

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
    states = [rules[0].init(user), rules[1].init(items)]
    for number in range(3):
        if not keep:
            states = [rules[0].init(user), rules[1].init(items)]
        for rows, _, labels in reference.batches_of(jax.random.key(number), data, ITEMS, config):
            batch = [np.pad(x, (0, 8 - len(labels))) for x in (rows, labels, np.ones(len(labels)))]
            gradients = gradient(
                user, items, [x.astype(y) for x, y in zip(batch, "iff", strict=True)]
            )
            both = [user, items]
            for k in (0, 1):
                decayed = jax.tree.map(lambda g, x: g + 0.1 * x, gradients[k], both[k])
                change, states[k] = rules[k].update(decayed, states[k])
                both[k] = optax.apply_updates(both[k], change)
            user, items = both
    np.testing.assert_allclose(found_items, items, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found_user["embedding"], user["embedding"], rtol=1e-3, atol=1e-4)


def test_a_kept_optimizer_counts_the_steps_of_all_rounds() -> None:
    config, *rest = start(optimizer="adam", keep_optimizer=True)
    batches = -(-3 * int(rest[0].positives) // 8)
    _, _, memory, _ = rounds(3, config, *rest)
    counts = [x for x in jax.tree.leaves(memory.optimizers) if x.dtype == jnp.int32]
    assert [int(x) for x in counts] == [3 * batches, 3 * batches]


@pytest.mark.parametrize("resample", [True, False])
def test_negatives_of_two_rounds(resample, monkeypatch) -> None:
    from fedjax_rec import batches

    drawn = []

    def recorded(key, *rest):
        drawn.append(draw_samples(key, *rest))
        return drawn[-1]

    monkeypatch.setattr(batches, "draw_samples", recorded)
    config, *rest = start(resample_negatives=resample)
    assert isinstance(rest[-1].samples_key, tuple) is resample
    rounds(2, config, *rest)
    same = bool((drawn[0].items == drawn[1].items).all())
    assert same is not resample


def test_clients_keep_different_negatives() -> None:
    problem, method = small(), methods.fedmf(resample_negatives=False, dim=4)
    server = method.init(jax.random.key(0), problem)
    keys = [method.init_client(jax.random.key(k), server, 1).memory.samples_key for k in (1, 2)]
    assert (keys[0] != keys[1]).any()
