"""The PyTorch reference against float64 NumPy: a benchmark must race against the right formulas."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .problems import tiny_problem

torch = pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
import torch_loop  # noqa: E402

TEMPERATURE, BASE_TEMPERATURE = 0.1, 0.5


def contrastive(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The term by its definition, one anchor and one positive at a time, float64."""
    z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = z @ z.T / TEMPERATURE
    total = 0.0
    for a in range(len(labels)):
        others = [k for k in range(len(labels)) if k != a]
        positives = [p for p in others if labels[p] == labels[a]]
        log_denominator = np.log(np.sum(np.exp(similarity[a, others])))
        if positives:
            total += np.mean([similarity[a, p] - log_denominator for p in positives])
    return -TEMPERATURE / BASE_TEMPERATURE * total / len(labels)


def training_loss(parameters, item, target, labels, contrast_weight) -> float:
    """BCE + ρ·L_con of one batch, float64. `parameters` is (w [d], b [], E [m, d])."""
    weight, bias, embeddings = parameters
    probability = 1 / (1 + np.exp(-(embeddings[item] @ weight + bias)))
    bce = -np.mean(target * np.log(probability) + (1 - target) * np.log(1 - probability))
    if labels is None:
        return bce
    return bce + contrast_weight * contrastive(embeddings, labels)


def gradient(function, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences."""
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = step
        found[index] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


def numpy_state(state_dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        state_dict["head.weight"].numpy().astype(np.float64)[0],
        state_dict["head.bias"].numpy().astype(np.float64)[0],
        state_dict["items.weight"].numpy().astype(np.float64),
    )


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    dim=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_contrastive_loss_is_the_formula(labels, dim, seed):
    embeddings = np.random.default_rng(seed).normal(size=(len(labels), dim)) + 0.1
    found = torch_loop.contrastive_loss(
        torch.from_numpy(embeddings),
        torch.tensor(labels),
        temperature=TEMPERATURE,
        base_temperature=BASE_TEMPERATURE,
    )
    assert float(found) == pytest.approx(contrastive(embeddings, np.array(labels)), abs=1e-9)


@pytest.mark.parametrize("contrast_weight", [0.0, 0.5])
def test_one_batch_is_a_head_step_then_an_item_step_on_a_fresh_forward(contrast_weight):
    # Exactly four items are unseen, so every positive draws all of them: no chance is left.
    problem = tiny_problem([[0, 1, 2]], num_items=7)
    config = torch_loop.LoopConfig(
        dim=3, lr=0.1, item_lr_scale=0.5, negatives=4, contrast_weight=contrast_weight
    )
    state = torch_loop.init(problem, config, seed=3)
    labels = np.array([0, 0, 1, 1, 1, 2, 3]) if contrast_weight else None
    state = dataclasses.replace(state, labels=labels)
    item = np.array([0, 1, 2, *[3, 4, 5, 6] * 3])
    target = (item < 3).astype(float)
    head, bias, embeddings = numpy_state(state.clients[0])

    def loss(w, b, e):
        return training_loss((w, b, e), item, target, labels, contrast_weight)

    new_head = head - 0.1 * gradient(lambda w: loss(w, bias, embeddings), head)
    new_bias = bias - 0.1 * gradient(lambda b: loss(head, b, embeddings), bias)
    item_rate = 0.1 * 7 * 0.5
    step = gradient(lambda e: loss(new_head, new_bias, e), embeddings)
    expected = (new_head, new_bias, embeddings - item_rate * step)

    if contrast_weight:
        config = dataclasses.replace(config, clusters=2)
        trained = torch_loop.cgfedrec_round(problem, state, config, seed=5)
    else:
        trained = torch_loop.pfedrec_round(problem, state, config, seed=5)

    for found, wanted in zip(numpy_state(trained.clients[0]), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert trained.batches == 1
    assert trained.loss == pytest.approx(loss(new_head, new_bias, embeddings), rel=1e-5)


def test_pfedrec_clients_start_from_the_mean_and_keep_their_heads():
    problem = tiny_problem([[0, 1], [2, 3], [4]], num_items=9)
    config = torch_loop.LoopConfig(dim=3, item_lr_scale=0.5)
    first = torch_loop.pfedrec_round(
        problem, torch_loop.init(problem, config, seed=0), config, seed=1
    )
    uploads = [own["items.weight"] for own in first.clients.values()]
    torch.testing.assert_close(first.mean_items, torch.stack(uploads).mean(0))
    still = dataclasses.replace(config, lr=0.0)
    second = torch_loop.pfedrec_round(problem, first, still, seed=2)
    for client, own in second.clients.items():
        torch.testing.assert_close(own["items.weight"], first.mean_items)
        torch.testing.assert_close(own["head.weight"], first.clients[client]["head.weight"])


def test_cgfedrec_clients_keep_their_items_and_receive_labels():
    problem = tiny_problem([[0, 1], [2, 3], [4]], num_items=9)
    config = torch_loop.LoopConfig(dim=3, item_lr_scale=0.5, contrast_weight=0.1, clusters=3)
    first = torch_loop.cgfedrec_round(
        problem, torch_loop.init(problem, config, seed=0), config, seed=1
    )
    assert set(first.labels) == {0, 1, 2}
    still = dataclasses.replace(config, lr=0.0)
    second = torch_loop.cgfedrec_round(problem, first, still, seed=2)
    for client, own in second.clients.items():
        torch.testing.assert_close(own["items.weight"], first.clients[client]["items.weight"])


def test_the_labels_change_the_training():
    problem = tiny_problem([[0, 1, 2]], num_items=7)
    config = torch_loop.LoopConfig(dim=3, item_lr_scale=0.5, contrast_weight=0.5, clusters=2)
    bare = torch_loop.init(problem, config, seed=0)
    labelled = dataclasses.replace(bare, labels=np.arange(7) % 2)
    without = torch_loop.cgfedrec_round(problem, bare, config, seed=1)
    with_labels = torch_loop.cgfedrec_round(problem, labelled, config, seed=1)
    assert not torch.allclose(without.mean_items, with_labels.mean_items)


@pytest.mark.parametrize(
    ("protocol", "unseen"), [("leak-free", [2, 3, 4, 5, 6]), ("published", [2, 3, 6])]
)
def test_negatives_follow_the_protocol(protocol, unseen):
    problem = tiny_problem([[0, 1]], num_items=7, protocol=protocol, validation=[[4]], test=[[5]])
    state = torch_loop.init(problem, torch_loop.LoopConfig(dim=2), seed=0)
    assert state.unseen[0].tolist() == unseen


def test_a_subset_trains_only_its_clients():
    problem = tiny_problem([[0, 1], [2, 3], [4]], num_items=9)
    config = torch_loop.LoopConfig(dim=2, batch_size=4)
    state = torch_loop.init(problem, config, seed=0, clients=[0, 2])
    trained = torch_loop.pfedrec_round(problem, state, config, seed=0)
    assert sorted(trained.clients) == [0, 2]
    assert trained.batches == 3 + 2  # 10 and 5 samples in batches of 4


def test_several_users_a_client_are_refused():
    problem = tiny_problem([[0], [1]], num_items=6, users_per_client=2)
    with pytest.raises(ValueError, match="one user a client"):
        torch_loop.init(problem, torch_loop.LoopConfig(), seed=0)


def test_a_round_repeats_and_leaves_the_global_generators_alone():
    problem = tiny_problem([[0, 1], [2, 3]], num_items=12)
    config = torch_loop.LoopConfig(dim=3, contrast_weight=0.1, clusters=3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def train():
        state = torch_loop.init(problem, config, seed=0)
        return torch_loop.cgfedrec_round(problem, state, config, seed=1)

    one, two = train(), train()
    torch.testing.assert_close(one.mean_items, two.mean_items, rtol=0, atol=0)
    assert (one.labels == two.labels).all()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
