"""Clients: every user in one of them, blocks as the papers cut them, limits that hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.data import partition
from fedjax_rec.errors import InputError


@pytest.mark.parametrize(
    ("users", "clients", "each", "last"), [(943, 100, 9, 52), (6040, 100, 60, 100), (7, 7, 1, 1)]
)
def test_blocks(users: int, clients: int, each: int, last: int) -> None:
    order, starts = partition(users, clients=clients)
    assert order.tolist() == list(range(users))
    assert np.diff(starts).tolist() == [each] * (clients - 1) + [last]


@given(st.integers(1, 200), st.data())
def test_every_user_once_and_limits_are_prefixes(users: int, data: st.DataObject) -> None:
    clients = data.draw(st.none() | st.integers(1, users))
    own = data.draw(st.none() | st.lists(st.integers(0, 9), min_size=users, max_size=users))
    own_array = None if own is None else np.array(own)
    order, starts = partition(users, clients=clients, own=own_array)
    assert sorted(order.tolist()) == list(range(users))
    assert starts[0] == 0
    assert starts[-1] == users
    assert (np.diff(starts) > 0).all()
    limit = data.draw(st.integers(1, len(starts) - 1))
    some, cut = partition(users, clients=clients, own=own_array, client_limit=limit)
    assert cut.tolist() == starts[: limit + 1].tolist()
    assert some.tolist() == order[: cut[-1]].tolist()


def test_own_clients_keep_their_users_in_order() -> None:
    order, starts = partition(6, own=np.array([4, 0, 4, 2, 0, 4]))
    assert order.tolist() == [1, 4, 3, 0, 2, 5]
    assert starts.tolist() == [0, 2, 3, 6]
    order, starts = partition(6, clients=2, own=np.array([4, 0, 4, 2, 0, 4]))
    assert order.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 11}, "clients=11 is more than the 10 users"),
        ({"clients": 0}, "clients=0 is not a positive integer"),
        ({"clients": 2.0}, r"clients=2\.0 is not a positive integer"),
        ({"client_limit": 11}, "client_limit=11 is more than the 10 clients"),
        ({"clients": 2, "client_limit": 3}, "client_limit=3 is more than the 2 clients"),
        ({"client_limit": -1}, "client_limit=-1 is not a positive integer"),
    ],
)
def test_what_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        partition(10, **options)
