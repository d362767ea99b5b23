"""One client of all users: what is held out, and against what, stays."""

import dataclasses

import numpy as np

from fedjax_rec.data import centralize
from tests.problems import small


def test_only_the_grouping_changes() -> None:
    problem = small(clients=5)
    together = centralize(problem)
    assert together.client_starts.tolist() == [0, problem.num_users]
    assert together.notes == (
        *problem.notes,
        "centralized: one client holds the data of all 24 users",
    )
    for field in dataclasses.fields(problem):
        if field.name not in ("client_starts", "notes"):
            assert getattr(together, field.name) is getattr(problem, field.name)


def test_a_limit_on_clients_limits_the_users() -> None:
    together = centralize(small(client_limit=7))
    np.testing.assert_array_equal(together.users_per_client, [7])
