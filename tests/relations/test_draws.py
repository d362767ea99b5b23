"""Drawing clients: the right number, of those present, whatever the rows' order; fairly."""

import jax
import numpy as np
import pytest

from fedjax_rec.relations import draw_clients

CLIENT = np.array([4, -1, 0, 2, 7, -1, 3], np.int32)


def drawn(seed: int, client: np.ndarray, count: int) -> set[int]:
    taken = np.asarray(draw_clients(jax.random.key(seed), client, count))
    assert taken.shape == client.shape
    return set(client[taken].tolist())


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_as_many_as_asked_for_of_those_present(count, expected) -> None:
    found = drawn(0, CLIENT, count)
    assert len(found) == expected
    assert -1 not in found


def test_the_order_of_rows_does_not_matter() -> None:
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(CLIENT)
        assert drawn(seed, shuffled, 2) == drawn(seed, CLIENT, 2)


def test_everybody_is_drawn_as_often() -> None:
    one = jax.jit(jax.vmap(lambda key: draw_clients(key, CLIENT, 2)))
    times = np.asarray(one(jax.random.split(jax.random.key(1), 3000))).mean(axis=0)
    np.testing.assert_allclose(times[CLIENT >= 0], 2 / 5, atol=0.04)  # 4 standard errors
