"""The graph filter against its formula in float64, on whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods, uplink
from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods.fedcia_gf import _entries
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from tests.problems import client_data, small

ITEMS = 40
RANK = 3


def interactions(problem: Problem, client: int) -> np.ndarray:
    """[users of the client, m] of 0 and 1."""
    start, stop = problem.client_starts[client : client + 2]
    matrix = np.zeros((stop - start, ITEMS))
    for row, user in enumerate(range(start, stop)):
        matrix[row, problem.train[user]] = 1
    return matrix


def power(x, exponent) -> np.ndarray:
    return np.power(x, exponent, out=np.zeros_like(x), where=x > 0)


def normalized(matrix) -> np.ndarray:
    by_user, by_item = matrix.sum(axis=1), matrix.sum(axis=0)
    return power(by_user, -0.5)[:, None] * matrix * power(by_item, -0.5)


def low_pass(gram, roots) -> np.ndarray:
    """D^(−1/2) V Vᵀ D^(1/2) with the leading eigenvectors that belong to an eigenvalue above 0."""
    values, vectors = np.linalg.eigh(gram)
    kept = vectors[:, -RANK:][:, values[-RANK:] > 1e-6]
    return power(roots, -1.0)[:, None] * (kept @ kept.T) * roots


@pytest.mark.parametrize("clients", [None, 6])
def test_scores_against_whole_matrices(clients) -> None:
    problem = small(clients=clients)
    method = methods.fedcia_gf(low_pass_rank=RANK)
    engine = Engine(method, problem, client_mesh(1), chunk=4)
    state, outcome = engine.run_round(engine.initial_state(), 1)

    everyone = [interactions(problem, k) for k in range(problem.num_clients)]
    grams = [normalized(r).T @ normalized(r) for r in everyone]
    mean = np.mean(grams, axis=0)
    np.testing.assert_allclose(state.server.gram, mean, atol=1e-6)
    leading = np.abs(np.linalg.eigh(mean)[1][:, -1])
    global_filter = mean + 0.3 * low_pass(
        mean, np.where(leading > 1e-3 * leading.max(), leading, 0)
    )

    expected_bytes = 0
    for k, (matrix, gram) in enumerate(zip(everyone, grams, strict=True)):
        nonzero = int(np.count_nonzero(np.triu(gram)))
        expected_bytes += uplink.pairs(ITEMS + 1, nonzero).bytes
        roots = np.sqrt(matrix.sum(axis=0))
        own_filter = gram + 0.3 * low_pass(gram, roots)
        expected = matrix @ own_filter + 60 * matrix @ global_filter

        data, download = client_data(problem, k), method.broadcast(state.server)
        received = method.receive(jax.random.key(0), (), download, data)
        found = [method.scores(received, download.shared, u) for u in range(len(matrix))]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert outcome.bytes.up_total == expected_bytes
    assert int(state.server.entries) == np.count_nonzero(np.triu(mean))


def test_the_leading_eigenvector_stands_in_for_the_degrees() -> None:
    """One client of all users: P's leading eigenvector is √D_i up to a factor, exactly."""
    problem = small(clients=1)
    method = methods.fedcia_gf(low_pass_rank=RANK)
    engine = Engine(method, problem, client_mesh(1))
    state, _ = engine.run_round(engine.initial_state(), 1)
    roots = np.sqrt(interactions(problem, 0).sum(axis=0))
    np.testing.assert_allclose(state.server.roots, roots / np.linalg.norm(roots), atol=1e-3)


@pytest.mark.parametrize("users", [1, 2, 7])
@pytest.mark.parametrize("items", [5, 128, 300])
def test_entries_are_counted_by_blocks(users, items) -> None:
    history = (np.random.default_rng(items).random((users, items)) < 0.2).astype(np.float32)
    expected = np.count_nonzero(np.triu(history.T @ history))
    assert int(_entries(jnp.asarray(history))) == expected


def test_noise_makes_the_upload_dense() -> None:
    method = methods.fedcia_gf(low_pass_rank=RANK, laplace=0.01)
    engine = Engine(method, small(), client_mesh(1))
    state, first = engine.run_round(engine.initial_state(), 1)
    _, second = engine.run_round(state, 2)
    triangle = ITEMS * (ITEMS + 1) // 2 * 4
    assert first.bytes.up_total == 24 * triangle
    assert first.bytes.down_total == 0
    assert second.bytes.down_total == 24 * triangle


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_weight": -1.0}, "global_weight=-1.0"),
        ({"low_pass_weight": float("inf")}, "low_pass_weight=inf"),
        ({"laplace": float("nan")}, "laplace=nan"),
        ({"low_pass_rank": 0}, "low_pass_rank=0 must be at least 1"),
    ],
)
def test_wrong_options(options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        methods.fedcia_gf(**options)
    assert "\n" not in str(error.value)


def test_more_eigenvectors_than_items() -> None:
    with pytest.raises(InputError, match="low_pass_rank=41 is more than the 40 items"):
        methods.fedcia_gf(low_pass_rank=41).init(jax.random.key(0), small())
