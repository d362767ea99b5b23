"""Score functions against NumPy; one user alone and many at once; what training starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.methods.local_training import initial_head
from fedjax_rec.models import MF, MLP, NCF, LinearHead, score, user_side_and_network
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


def _ncf(parameters, user, items):
    """He et al., equation 12, with everything that it puts side by side put side by side."""
    gmf, mlp = np.split(items, 2, axis=1)
    hidden = np.hstack([np.tile(parameters["user_mlp"][user], (len(items), 1)), mlp])
    for name in ("layer_0", "layer_1", "layer_2"):
        layer = parameters[name]
        hidden = np.maximum(hidden @ layer[:, :-1].T + layer[:, -1], 0)
    fused = np.hstack([parameters["user_gmf"][user] * gmf, hidden])
    return fused @ parameters["output"][0, :-1] + parameters["output"][0, -1]


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


def test_ncf_agrees_with_numpy_for_one_user_and_for_many() -> None:
    items = np.random.default_rng(2).normal(size=(7, 6)).astype(np.float32)
    model = NCF(USERS, layers=(5, 4, 2))
    start = model.init(jax.random.key(0), jnp.int32(0), items[:1])["params"]
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), start)
    wide = items.astype(np.float64)
    by_user = [_ncf(parameters, user, wide) for user in range(USERS)]
    for user in range(USERS):
        found = score(model, parameters, jnp.int32(user), items)
        np.testing.assert_allclose(found, by_user[user], rtol=1e-5, atol=1e-5)
    users = np.array([2, 0, 0, 1, 2, 1, 0])
    expected = [by_user[user][row] for row, user in enumerate(users)]
    np.testing.assert_allclose(score(model, parameters, users, items), expected, rtol=1e-5)

    user_side, network = user_side_and_network(parameters)
    assert {name: x.shape for name, x in user_side.items()} == {
        "user_gmf": (USERS, 3),
        "user_mlp": (USERS, 3),
    }
    shapes = {"layer_0": (5, 7), "layer_1": (4, 6), "layer_2": (2, 5), "output": (1, 6)}
    assert {name: x.shape for name, x in network.items()} == shapes


def test_the_network_starts_by_glorot_with_biases_of_0() -> None:
    start = NCF(1, layers=(40, 30)).init(jax.random.key(6), jnp.int32(0), jnp.zeros((1, 40)))
    layer = np.asarray(start["params"]["layer_1"])
    assert (layer[:, -1] == 0).all()
    bound = (6 / (40 + 30)) ** 0.5
    assert 0.95 * bound < np.abs(layer[:, :-1]).max() <= bound
    assert layer[:, :-1].std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_mlp_agrees_with_numpy_for_one_user_and_for_many() -> None:
    model = MLP(USERS, layers=(6, 4))
    parameters = _parameters(model)
    layers = [parameters[name] for name in ("layer_0", "layer_1", "output")]

    def by_hand(user):
        hidden = np.hstack([np.tile(parameters["embedding"][user], (len(ITEMS), 1)), ITEMS])
        for layer in layers[:-1]:
            hidden = np.maximum(hidden.astype(np.float64) @ layer["kernel"] + layer["bias"], 0)
        return (hidden @ layers[-1]["kernel"] + layers[-1]["bias"])[:, 0]

    by_user = [by_hand(user) for user in range(USERS)]
    for user in range(USERS):
        found = score(model, parameters, jnp.int32(user), ITEMS)
        np.testing.assert_allclose(found, by_user[user], rtol=1e-5, atol=1e-5)
    users = np.array([2, 0, 0, 1, 2, 1, 0])
    expected = [by_user[user][row] for row, user in enumerate(users)]
    found = score(model, parameters, users, ITEMS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_mlp_starts_as_torch_would_start_it() -> None:
    start = MLP(500, layers=(40, 30)).init(jax.random.key(6), jnp.int32(0), jnp.zeros((1, 20)))
    parameters = start["params"]
    assert np.std(parameters["embedding"]) == pytest.approx(1, rel=0.05)
    for value in jax.tree.leaves(parameters["layer_1"]):  # kernel and bias
        assert np.abs(value).max() <= 40**-0.5
        assert np.std(value) == pytest.approx(40**-0.5 / 3**0.5, rel=0.25)


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
