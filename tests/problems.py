"""Small federations that tests train on, and one client of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.batches import ClientData
from fedjax_rec.data import Problem, Protocol, Ragged, centralize, make_problem, synthetic
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.methods import Method
from fedjax_rec.simulation.layout import lay_out

__all__ = ["client_data", "listed", "ragged", "small", "suited"]


def small(users: int = 24, items: int = 40, **options: Any) -> Problem:
    """A synthetic federation that trains in milliseconds; ``options`` go to ``make_problem``."""
    return make_problem(synthetic(users=users, items=items, interactions_per_user=8), **options)


def suited(method: Method, problem: Problem) -> Problem:
    """A problem as the method gets it from ``simulate``."""
    return centralize(problem) if method.centralized else problem


def listed(
    train: Sequence[Sequence[int]],
    num_items: int,
    *,
    protocol: Protocol = "leak-free",
    validation: Sequence[Sequence[int]] | None = None,
    test: Sequence[Sequence[int]] | None = None,
    client_starts: Sequence[int] | None = None,
    candidates: tuple[np.ndarray, np.ndarray] | None = None,
) -> Problem:
    """A federation written out by hand: each user's items, one user a client by default."""
    users = len(train)
    nothing: list[list[int]] = [[] for _ in range(users)]
    dataset = Dataset(
        name="listed",
        user=np.repeat(np.arange(users), [len(x) for x in train]).astype(np.int32),
        item=np.concatenate([np.asarray(x, np.int32) for x in train]),
        timestamp=None,
        user_ids=np.arange(users).astype(str),
        item_ids=np.arange(num_items).astype(str),
    )
    return Problem(
        dataset=dataset,
        split="ratio" if candidates is None else "loo",
        protocol=protocol,
        user_index=np.arange(users),
        client_starts=np.asarray(
            np.arange(users + 1) if client_starts is None else client_starts, np.int64
        ),
        train=ragged(train),
        validation=ragged(validation or nothing),
        test=ragged(test or nothing),
        evaluation_negatives=candidates,
    )


def ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    """Lists end to end, each in ascending order."""
    starts = np.cumsum([0, *map(len, lists)])
    return Ragged(starts, np.array([v for x in lists for v in sorted(x)], np.int32))


def client_data(problem: Problem, client: int) -> ClientData:
    """One client's training data on the device, as its round sees it when it trains alone."""
    layout = lay_out(problem, 1)
    row = int(layout.row_of_client[client])
    bucket = next(b for b in layout.buckets if b.start <= row < b.stop)
    return jax.tree.map(lambda x: jnp.asarray(x[0, row - bucket.start]), bucket.data)
