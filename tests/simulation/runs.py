"""Engines on a small federation, run for a few rounds, and what makes two runs the same."""

from typing import Any

import jax
import numpy as np
import pytest

from fedjax_rec.data import Problem
from fedjax_rec.methods import Method
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine, Outcome
from tests.problems import suited

__all__ = ["USERS", "assert_bitwise", "assert_same_run", "make_engine", "run_engine"]

USERS = 25  # an odd number: two devices leave a row unused, groups of 7 fall short


def make_engine(method: Method, problem: Problem, devices: int = 1, **options: Any) -> Engine:
    """Ranking is part of training unless a test asks otherwise: a program less to compile."""
    problem = suited(method, problem)
    return Engine(method, problem, client_mesh(devices), **{"evaluate_at": "trained", **options})


def run_engine(engine: Engine, rounds: int = 2) -> tuple[Any, tuple[Any, Any], list[Outcome]]:
    """The last state, the same as (clients by id, server), and the outcomes."""
    state, outcomes = engine.initial_state(), []
    for number in range(1, rounds + 1):
        state, outcome = engine.run_round(state, number, evaluate=True)
        outcomes.append(outcome)
    states = engine.client_states(state), engine.server_state(state)
    return state, states, outcomes


def assert_same_run(ours: Any, theirs: Any) -> None:
    """Equal up to the order of float additions; ranks and bytes equal."""
    _, states, outcomes = ours
    _, expected_states, expected = theirs
    # Additions in another order differ in the last bits; two rounds of training multiply that, and
    # so does the eigenbasis of a matrix whose eigenvalues are close.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), states, expected_states
    )
    for outcome, other in zip(outcomes, expected, strict=True):
        assert outcome.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert outcome.bytes == other.bytes
        assert outcome.participants == other.participants
        jax.tree.map(np.testing.assert_array_equal, outcome.ranks, other.ranks)


def assert_bitwise(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)
