"""Tiny hand-made problems for the benchmark tests."""

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.problem import Problem, Protocol, Ragged

__all__ = ["tiny_problem"]


def tiny_problem(
    train: list[list[int]],
    num_items: int,
    *,
    protocol: Protocol = "leak-free",
    validation: list[list[int]] | None = None,
    test: list[list[int]] | None = None,
    users_per_client: int = 1,
) -> Problem:
    """A leave-one-out problem from each user's item lists."""
    users = len(train)
    nothing: list[list[int]] = [[] for _ in range(users)]
    dataset = Dataset(
        name="tiny",
        user=np.repeat(np.arange(users), [len(items) for items in train]).astype(np.int32),
        item=np.concatenate(train).astype(np.int32),
        timestamp=None,
        user_ids=np.arange(users).astype(str),
        item_ids=np.arange(num_items).astype(str),
    )
    return Problem(
        dataset=dataset,
        split="loo",
        protocol=protocol,
        user_index=np.arange(users),
        client_starts=np.arange(0, users + 1, users_per_client),
        train=_ragged(train),
        validation=_ragged(validation or nothing),
        test=_ragged(test or nothing),
        evaluation_negatives=None,
    )


def _ragged(lists: list[list[int]]) -> Ragged:
    starts = np.cumsum([0, *map(len, lists)])
    return Ragged(starts, np.array([value for values in lists for value in values], np.int32))
