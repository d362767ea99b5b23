"""All users' data in one place, for references that are no federation."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedjax_rec.data.problem import Problem

__all__ = ["centralize"]


def centralize(problem: Problem) -> Problem:
    """The same users, items, split and candidates, with one client that holds all users.

    Args:
      problem: of any number of clients.

    Example:
      >>> from fedjax_rec.data import make_problem, synthetic
      >>> centralize(make_problem(synthetic(users=60, items=200), clients=20))
      Problem('synthetic', loo, leak-free: 1 clients, 60 users, 200 items)
    """
    starts = np.array([0, problem.num_users], np.int64)
    note = f"centralized: one client holds the data of all {problem.num_users:,} users"
    return dataclasses.replace(problem, client_starts=starts, notes=(*problem.notes, note))
