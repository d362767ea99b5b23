"""FedCIA: the alignment in its two forms and by whole matrices, the Gram sum, rank and widths."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Broadcast
from fedjax_rec.methods.gram_alignment import Eigenbasis, GramMatrix, align
from fedjax_rec.methods.gram_sum import gram_sum, mean_gram
from fedjax_rec.server import eigenbasis
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small

ITEMS = 40
OPTIONS = {"dim": 6, "batch_size": 16, "negatives": 2, "local_epochs": 2, "lr": 0.05}
OPTIONS |= {"item_lr": 0.05, "align_steps": 7, "init_std": 0.5}
TRIANGLE = ITEMS * (ITEMS + 1) // 2 * 4  # bytes


def embeddings(seed: int, dim: int = 6, scale: float = 0.5) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(ITEMS, dim))
    return (scale * drawn).astype(np.float32)


def noisy_gram() -> np.ndarray:
    """The mean of clients' Gram matrices, with noise that makes some eigenvalues negative."""
    total = sum(embeddings(seed) @ embeddings(seed).T for seed in range(1, 5)) / 4
    noise = np.random.default_rng(9).normal(size=total.shape)
    return (total + 0.05 * (noise + noise.T)).astype(np.float32)


def dense_steps(start, gram, steps, lr) -> np.ndarray:
    """The paper's own form in float64: E Eᵀ made in every step."""
    e, g = start.astype(np.float64), gram.astype(np.float64)
    for _ in range(steps):
        rest = e @ e.T - g
        e = e - lr * 2 * rest @ e / np.linalg.norm(rest)
    return e


@pytest.mark.parametrize("steps", [1, 100])
def test_both_forms_take_the_dense_steps(steps) -> None:
    start, gram = embeddings(0), noisy_gram()
    values, vectors = eigenbasis(gram)
    expected = dense_steps(start, gram, steps, 0.02)
    for target in (GramMatrix(gram), Eigenbasis(jnp.asarray(vectors), jnp.asarray(values))):
        found = jax.jit(lambda e, t: align(e, t, steps=steps, lr=0.02))(start, target)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    moved = np.linalg.norm(expected @ expected.T - gram)
    assert moved < np.linalg.norm(start @ start.T - gram)


def test_gram_sum_is_the_sum_of_the_products() -> None:
    factors = np.stack([embeddings(seed, dim=3) for seed in range(5)])
    weights = np.array([1, 0, 2, 1, 1], np.float32)
    acc = gram_sum(None, jnp.asarray(factors[:2]), jnp.asarray(weights[:2]))
    acc = gram_sum(acc, jnp.asarray(factors[2:]), jnp.asarray(weights[2:]))
    exact = sum(w * f.astype(np.float64) @ f.T for w, f in zip(weights, factors, strict=True))
    np.testing.assert_allclose(acc.total, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean_gram(acc), exact / 5, rtol=1e-5, atol=1e-5)


def test_a_group_of_clients_has_one_matrix() -> None:
    """The [m, m] arrays of a group of 50 clients: the sum, and the group's part of it."""
    m, n = 300, 50
    shapes = jax.ShapeDtypeStruct((n, m, 2), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)
    compiled = jax.jit(lambda f, w: gram_sum(None, f, w)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * m * m * 4


@cache
def built(**options):
    return methods.build("fedcia", **{**OPTIONS, **options})


def one_client(**options):
    """A method, a client of its first round, its data, and a broadcast with a known G."""
    method, problem = built(**options), small(clients=6)
    server = method.init(jax.random.key(0), problem)
    users = int(problem.users_per_client.max())
    client = method.init_client(jax.random.key(1), server, users)
    data = client_data(problem, 1)
    data = data._replace(longest=data.positives)
    server = server._replace(gram=jnp.asarray(noisy_gram()), participants=jnp.float32(6))
    server = method.between_rounds(np.random.default_rng(0), 1, server)
    return method, client, method.broadcast(server), data


@partial(jax.jit, static_argnums=0)
def a_round(method, client, download: Broadcast, data):
    received = method.receive(jax.random.key(2), client, download, data)
    return received, *method.local_update(jax.random.key(3), received, download, data)


def test_forms_of_the_method_agree() -> None:
    rounds = []
    for form in ("eigen", "identity", "auto"):
        method, client, download, data = one_client(align_form=form, laplace=0.0)
        assert isinstance(download.shared.target, GramMatrix) == (form == "identity")
        rounds.append(a_round(method, client, download, data)[0])
    np.testing.assert_array_equal(rounds[0].items, rounds[2].items)
    np.testing.assert_allclose(rounds[0].items, rounds[1].items, rtol=1e-4, atol=1e-4)
    assert np.abs(rounds[0].items - client.items).max() > 0.01


def test_first_round_has_no_alignment() -> None:
    method, client, download, data = one_client()
    unknown = Broadcast(download.shared._replace(known=jnp.bool_(False)))
    received = method.receive(jax.random.key(2), client, unknown, data)
    jax.tree.map(np.testing.assert_array_equal, received, client)


def test_full_rank_is_the_whole_matrix() -> None:
    _, _, upload, _ = a_round(*one_client(laplace=0.0))
    for rank, tolerance in ((6, 1e-4), (5, None)):
        method, *rest = one_client(rank=rank, laplace=0.0)
        _, _, factor, _ = a_round(method, *rest)
        assert factor.shape == (ITEMS, rank)
        exact = np.float64(upload) @ np.float64(upload).T
        found = np.float64(factor) @ np.float64(factor).T
        if tolerance is not None:
            np.testing.assert_allclose(found, exact, atol=tolerance)
        else:  # Eckart–Young: what is missing is the smallest eigenvalue
            smallest = np.linalg.svd(np.float64(upload), compute_uv=False)[-1] ** 2
            assert np.linalg.norm(found - exact) == pytest.approx(smallest, rel=1e-3)


@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_padded_narrow_client_is_the_narrow_client(loss, optimizer) -> None:
    common = {"loss": loss, "optimizer": optimizer, "weight_decay": 0.01, "laplace": 0.0}
    wide, start, download, data = one_client(widths=(6, 4, 3), **common)
    narrow, _, shared, _ = one_client(dim=4, **common)
    download = download._replace(per_client=download.per_client.rows[2])
    assert int(download.per_client) == 4  # client 2 of 6 with three widths
    client = start._replace(user={"embedding": start.user["embedding"] * 1.5})
    thin = narrow.init_client(jax.random.key(1), narrow.init(jax.random.key(0), small()), 4)
    thin = thin._replace(
        user={"embedding": client.user["embedding"][:, :4]}, items=client.items[:, :4]
    )
    for _ in range(2):
        _, client, upload, info = a_round(wide, client, download, data)
        _, thin, thin_upload, thin_info = a_round(narrow, thin, shared, data)
        assert (np.asarray(client.items)[:, 4:] == 0).all()
        assert (np.asarray(client.user["embedding"])[:, 4:] == 0).all()
        close = {"rtol": 2e-3, "atol": 2e-4}
        np.testing.assert_allclose(client.items[:, :4], thin.items, **close)
        np.testing.assert_allclose(client.user["embedding"][:, :4], thin.user["embedding"], **close)
        np.testing.assert_allclose(upload @ upload.T, thin_upload @ thin_upload.T, **close)
        assert float(info.loss) == pytest.approx(float(thin_info.loss), rel=1e-3)


@cache
def engine(**options) -> Engine:
    """An engine, whose programs all tests share."""
    return Engine(built(**options), small(clients=6), client_mesh(1), chunk=4)


def two_rounds(run: Engine):
    state = run.initial_state()
    state, first = run.run_round(state, 1)
    state, second = run.run_round(state, 2)
    return state, first.bytes, second.bytes


def test_bytes_of_the_whole_matrix() -> None:
    _, first, second = two_rounds(engine())
    assert (first.up_total, first.down_total) == (6 * TRIANGLE, 0)
    assert (second.up_total, second.down_total) == (6 * TRIANGLE, 6 * TRIANGLE)


def test_bytes_of_a_factor() -> None:
    _, first, second = two_rounds(engine(rank=2))
    assert (first.up_total, second.up_total) == (6 * ITEMS * 2 * 4, 6 * ITEMS * 2 * 4)
    assert second.down_total == 6 * TRIANGLE


def test_without_alignment_nothing_is_shared() -> None:
    run = engine(align_steps=0)
    state, first, second = two_rounds(run)
    assert first.up_total == first.down_total == second.up_total == second.down_total == 0
    alone = Engine(run.method, small(clients=6, client_limit=1), client_mesh(1))
    mine, *_ = two_rounds(alone)
    for ours, its in zip(
        jax.tree.leaves(run.client_states(state)),
        jax.tree.leaves(alone.client_states(mine)),
        strict=True,
    ):
        np.testing.assert_allclose(ours[0], its[0], rtol=1e-5, atol=1e-6)


def test_the_servers_mean_is_that_of_the_clients() -> None:
    run = engine(laplace=0.0)
    state, _ = run.run_round(run.initial_state(), 1)
    tables = run.client_states(state).items
    exact = np.mean([np.float64(e) @ np.float64(e).T for e in tables], axis=0)
    np.testing.assert_allclose(state.server.gram, exact, rtol=1e-4, atol=1e-5)
    basis = state.server.basis
    rebuilt = (np.asarray(basis.vectors) * basis.values) @ np.asarray(basis.vectors).T
    np.testing.assert_allclose(rebuilt, exact, rtol=1e-3, atol=1e-4)
    nearest = run.method.item_view(state.server)["item_embeddings"]
    others = np.linalg.eigvalsh(exact)[:-6]  # Eckart–Young: all but the d largest are missing
    missing = np.linalg.norm(nearest @ nearest.T - exact)
    assert missing == pytest.approx(np.linalg.norm(others), rel=1e-3)


def test_noise_is_that_of_the_mean() -> None:
    with_noise, without = engine(laplace=2.0), engine(laplace=0.0)
    grams = [
        np.asarray(run.run_round(run.initial_state(), 1)[0].server.gram)
        for run in (with_noise, without)
    ]
    noise = (grams[0] - grams[1])[np.triu_indices(ITEMS)]
    assert noise.var() == pytest.approx(2 * 2.0**2 / 6, rel=0.25)


def test_narrow_clients_stay_narrow_through_rounds() -> None:
    run = engine(widths=(6, 4, 2))
    state, *_ = two_rounds(run)
    clients = run.client_states(state)
    for table, width in zip(clients.items, [6, 6, 4, 4, 2, 2], strict=True):
        assert (table[:, width:] == 0).all()
        assert (table[:, :width] != 0).all()


WRONG = [
    ({"align_steps": -1}, "align_steps=-1"),
    ({"align_lr": float("nan")}, "align_lr=nan"),
    ({"laplace": -1.0}, "laplace=-1.0"),
    ({"align_form": "dense"}, "align_form='dense'.*'identity'"),
    ({"rank": 0}, "rank=0 must be from 1 to dim=512"),
    ({"rank": 513}, "rank=513 must be from 1 to dim=512"),
    ({"widths": (256, 128)}, "widths=256 128.*dim=512"),
    ({"widths": (512, 0)}, "widths=512 0.*at least 1"),
    ({"loss": "hinge"}, "loss='hinge'.*'mse'"),
    ({"weight_decay": -1.0}, "weight_decay=-1.0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        methods.fedcia(**options)
    assert "\n" not in str(error.value)


def test_defaults_are_the_releases_for_silos() -> None:
    config = methods.fedcia().config
    expected = {"dim": 512, "optimizer": "adam", "lr": 0.1, "item_lr": 0.1, "weight_decay": 1e-6}
    expected |= {"batch_size": 4096, "negatives": 1, "keep_optimizer": True, "laplace": 0.001}
    expected |= {"resample_negatives": False, "align_steps": 100, "align_lr": 0.1, "loss": "bce"}
    assert dataclasses.asdict(config) | expected == dataclasses.asdict(config)
