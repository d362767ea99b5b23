"""``contrast_sample``: draws a step, padding, its own gradient in training, whole runs, errors."""

from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.methods.contrast_sample import ContrastSample
from tests.losses.reference import sampled_gradient
from tests.methods import reference
from tests.problems import client_data, small

KEY = jax.random.key(11)
ITEMS = 40
LABELS = np.arange(ITEMS, dtype=np.int32) % 7
DOWNLOAD = Broadcast(Labels(jnp.asarray(LABELS), jnp.bool_(True)))
OPTIONS = {"dim": 4, "lr": 0.3, "item_lr_scale": 0.1, "batch_size": 8, "negatives": 2}
OPTIONS |= {"local_epochs": 2, "clusters": 7, "contrast_weight": 2.0}
RUN = {"rounds": 3, "seed": 4, "progress": False}


def _client(**options):
    """CGFedRec, and one of its clients as it starts a round that has labels."""
    problem = small()
    method = methods.cgfedrec(**{**OPTIONS, **options})
    server = method.init(jax.random.key(1), problem)
    data = client_data(problem, 0)
    return method, method.init_client(KEY, server, 1), data._replace(longest=data.positives)


def _history(method, **options):
    result = fedjax_rec.simulate(method, small(users=12), **RUN, **options)
    timings = [name for name in result.history if name.endswith("seconds")]
    return result.history.drop(columns=timings)


def test_every_client_and_step_draws_anew() -> None:
    option = ContrastSample(10)

    def draw(client, batch):
        return option.sample_items(jax.random.fold_in(KEY, client), jnp.int32(batch), ITEMS)

    np.testing.assert_array_equal(draw(3, 1), draw(3, 1))
    drawn = {tuple(np.sort(draw(client, batch)).tolist()) for client in (3, 4) for batch in (0, 1)}
    assert len(drawn) == 4


@pytest.mark.parametrize("anchors", ["all", "positive"])
def test_local_training_against_numpy(anchors) -> None:
    method, client, data = _client(contrast_sample=9, anchors=anchors)
    trained, _, _ = jax.jit(method.local_update)(KEY, client, DOWNLOAD, data)
    options = {"temperature": 0.1, "base_temperature": 0.5, "anchors": anchors}
    number = count()

    def table_gradient(items):
        sample = method.config.sample_items(KEY, jnp.int32(next(number)), ITEMS)
        return 2.0 * sampled_gradient(items, LABELS, np.asarray(sample).tolist(), **options)

    batches = reference.batches_of(KEY, data, ITEMS, method.config)
    _, _, items, _ = reference.train(
        client.head["kernel"],
        client.head["bias"],
        client.items,
        batches,
        lr=0.3,
        item_lr=0.3 * ITEMS * 0.1,
        user_first=True,
        table_gradient=table_gradient,
    )
    assert next(number) == len(batches) > 2
    np.testing.assert_allclose(trained.items, items, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_batches_of_padding_change_nothing(optimizer) -> None:
    """A client in a longer group makes the same draws, to the last bit of its items."""
    method, client, data = _client(contrast_sample=9, optimizer=optimizer)
    update = jax.jit(method.local_update)
    alone = update(KEY, client, DOWNLOAD, data)
    among = update(KEY, client, DOWNLOAD, data._replace(longest=data.positives + 40))
    jax.tree.map(np.testing.assert_array_equal, alone[:2], among[:2])


@pytest.mark.parametrize("enough", [ITEMS, 10 * ITEMS])
def test_a_sample_of_all_items_is_the_exact_run(enough) -> None:
    """To the last bit: the program is the same."""
    build = {**OPTIONS, "contrast_sample": enough}
    exact = _history(methods.cgfedrec(**OPTIONS))
    assert _history(methods.cgfedrec(**build)).equals(exact)
    fewer = _history(methods.cgfedrec(**{**build, "contrast_sample": ITEMS - 1}))
    assert not fewer.equals(exact)


def test_runs_of_cgfedrec() -> None:
    """Finite, and alike one by one and side by side."""
    method = methods.cgfedrec(**OPTIONS, contrast_sample=9)
    history = _history(method, chunk=1)
    assert np.isfinite(history["train_loss"]).all()
    beside = _history(method, chunk=6)
    np.testing.assert_allclose(beside["train_loss"], history["train_loss"], rtol=1e-4)


@pytest.mark.parametrize("options", [{"gsa": False}, {}, {"ica": False}])
def test_runs_of_alignfedrec(options) -> None:
    own = {"dim": 4, "threshold": 0.3, "init_std": 0.1, "contrast_weight": 0.5, **options}
    exact = _history(methods.alignfedrec(**own))
    sampled = _history(methods.alignfedrec(**own, contrast_sample=9))
    assert np.isfinite(sampled["train_loss"]).all()
    # Without its contrastive term it has nothing to sample.
    assert sampled.equals(exact) == ("ica" in options)


@pytest.mark.parametrize("name", ["cgfedrec", "alignfedrec"])
@pytest.mark.parametrize("wrong", [2, 0, -1])
def test_samples_too_small(name, wrong) -> None:
    with pytest.raises(InputError, match=f"contrast_sample={wrong} must be at least 3") as error:
        methods.build(name, contrast_sample=wrong)
    assert "\n" not in str(error.value)
