"""Bytes that travel, from what the engine sends, against the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from fedjax_rec.simulation.ledger import Ledger, RoundBytes, round_bytes
from tests.methods.test_contract import tiny
from tests.problems import small

ITEMS, DIM = 40, 4
TABLE = ITEMS * DIM * 4  # float32
_TABLE_SHAPE = jax.ShapeDtypeStruct((ITEMS, DIM), jnp.float32)


def _engine_bytes(method, rounds):
    """What one client sends and receives in each round of a run."""
    engine = Engine(method, small(25), client_mesh(1), chunk=7, evaluate_at="trained")
    state, sent = engine.initial_state(), []
    for number in range(1, rounds + 1):
        state, outcome = engine.run_round(state, number, evaluate=True)
        sent.append(outcome.bytes)
    return sent


def _first_bytes(method):
    """What one client sends and receives in the first round, without running it."""
    server = method.init(jax.random.key(0), small())
    return round_bytes(method, method.broadcast(server), _TABLE_SHAPE)


def test_cgfedrec_sends_tables_up_and_labels_down() -> None:
    labels = math.ceil(ITEMS * 3 / 8)  # 3 bits for 5 clusters
    sent = _engine_bytes(tiny("cgfedrec", clusters=5), rounds=3)
    assert sent == [(TABLE, 0), (TABLE, labels), (TABLE, labels)]  # no labels before clustering


def test_a_run_with_quantized_tables() -> None:
    labels = math.ceil(ITEMS * 3 / 8)
    up = ITEMS * DIM // 2 + 8 * ITEMS  # half a byte a value, two float32 scales a row
    assert _engine_bytes(tiny("cgfedrec", bits=4), rounds=2) == [(up, 0), (up, labels)]


@pytest.mark.parametrize(
    ("clusters", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (40, 6)]
)
def test_labels_take_the_bits_of_their_number(clusters, bits) -> None:
    method = tiny("cgfedrec", clusters=clusters)
    server = method.init(jax.random.key(0), small())
    assert round_bytes(method, method.broadcast(server), _TABLE_SHAPE) == (TABLE, 0)
    # Bits are for all clusters that there may be, not for those that happen to be used.
    labels = Labels(jnp.zeros(ITEMS, jnp.int32), jnp.bool_(True))
    known = method.broadcast(server._replace(labels=labels))
    assert round_bytes(method, known, _TABLE_SHAPE).down == math.ceil(ITEMS * bits / 8)


@pytest.mark.parametrize("clustering", ["leiden", "louvain"])
def test_found_communities_take_the_bits_of_as_many_as_were_found(clustering) -> None:
    method = tiny("cgfedrec", clustering=clustering)
    server = method.init(jax.random.key(0), small())
    server = method.between_rounds(np.random.default_rng(0), 1, server)
    found = len(set(server.labels.labels.tolist()))
    assert found > 1
    bits = math.ceil(math.log2(found))
    sent = round_bytes(method, method.broadcast(server), _TABLE_SHAPE)
    assert sent == (TABLE, math.ceil(ITEMS * bits / 8))


@pytest.mark.parametrize("bits", [1, 5, 8, 16])
@pytest.mark.parametrize("name", ["cgfedrec", "pfedrec", "fedmf"])
def test_quantized_tables_carry_two_scales_a_row(name, bits) -> None:
    sent = _first_bytes(tiny(name, bits=bits))
    assert sent.up == math.ceil(ITEMS * DIM * bits / 8) + 8 * ITEMS
    assert sent.down == _first_bytes(tiny(name)).down  # the download is not quantized


@pytest.mark.parametrize("name", ["pfedrec", "fedmf"])
def test_item_tables_go_up_and_down(name) -> None:
    assert _engine_bytes(tiny(name), rounds=2) == [(TABLE, TABLE)] * 2
    assert _first_bytes(tiny(name, clip=1.0, laplace=0.1)) == (TABLE, TABLE)


def test_local_sends_nothing() -> None:
    assert _engine_bytes(tiny("local"), rounds=2) == [(0, 0)] * 2


def test_popularity_sends_counts() -> None:
    assert _engine_bytes(methods.popularity(), rounds=1) == [(4 * ITEMS, 4 * ITEMS)]


def test_totals_are_over_participants() -> None:
    ledger = Ledger()
    ledger.add(RoundBytes(up=10, down=0), clients=3)
    ledger.add(RoundBytes(up=10, down=7), clients=2)
    assert (ledger.up, ledger.down) == (50, 14)
