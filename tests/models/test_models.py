"""Score functions against NumPy; one user alone and many at once; what training starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.methods.local_training import initial_head
from fedjax_rec.models import MF, LinearHead, score
from tests.problems import small

USERS, DIM = 3, 5
ITEMS = np.random.default_rng(0).normal(size=(7, DIM)).astype(np.float32)


def _parameters(model):
    """Parameters of the model's own shapes, another draw for every user."""
    found = model.init(jax.random.key(0), jnp.int32(0), ITEMS[:1])["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), found)


def _expected(model, parameters, user, items):
    if isinstance(model, LinearHead):
        return items @ parameters["kernel"][user] + parameters["bias"][user]
    return items @ parameters["embedding"][user]


@pytest.mark.parametrize("model", [LinearHead(USERS), MF(USERS)])
def test_scalar_and_vector_users_agree_with_numpy(model) -> None:
    parameters = _parameters(model)
    by_user = [score(model, parameters, jnp.int32(user), ITEMS) for user in range(USERS)]
    for user in range(USERS):
        expected = _expected(model, parameters, user, ITEMS.astype(np.float64))
        np.testing.assert_allclose(by_user[user], expected, rtol=1e-5, atol=1e-6)
    users = np.array([2, 0, 0, 1, 2, 1, 0])
    mixed = score(model, parameters, users, ITEMS)
    assert mixed.shape == (len(ITEMS),)
    expected = [by_user[user][row] for row, user in enumerate(users)]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


def test_heads_all_start_from_one_draw() -> None:
    head = LinearHead(USERS).init(jax.random.key(3), jnp.int32(0), ITEMS[:1])["params"]
    assert head["kernel"].shape == (USERS, DIM)
    assert head["bias"].shape == (USERS,)
    kernel = np.asarray(head["kernel"])
    assert (kernel == kernel[0]).all()
    assert (np.asarray(head["bias"]) == head["bias"][0]).all()
    assert len(np.unique(kernel[0])) == DIM
    assert (np.abs(kernel) <= DIM**-0.5).all()
    assert abs(float(head["bias"][0])) <= DIM**-0.5


def test_the_draw_does_not_depend_on_how_users_are_grouped() -> None:
    silos = initial_head(jax.random.key(4), small(clients=5), DIM)
    phones = initial_head(jax.random.key(4), small(), DIM)
    assert silos["kernel"].shape[0] == 8
    assert phones["kernel"].shape[0] == 1
    np.testing.assert_array_equal(silos["kernel"][3], phones["kernel"][0])
    np.testing.assert_array_equal(silos["bias"][3], phones["bias"][0])


def test_user_embeddings_are_each_their_own_draw() -> None:
    found = MF(2000, init_std=0.1).init(jax.random.key(5), jnp.int32(0), ITEMS[:1])["params"]
    embedding = np.asarray(found["embedding"])
    assert len(np.unique(embedding[:, 0])) > 1990
    assert embedding.std() == pytest.approx(0.1, rel=0.05)
    assert abs(embedding.mean()) < 0.01
