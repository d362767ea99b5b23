"""Bytes that travel, from what the engine sends, against the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods, uplink
from fedjax_rec.methods import Broadcast, Info, Traffic
from fedjax_rec.methods.cgfedrec import Labels
from fedjax_rec.methods.contract import weighted_sum
from fedjax_rec.seeding import Purpose, host_rng
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine
from fedjax_rec.simulation.ledger import Ledger, RoundBytes, round_bytes
from fedjax_rec.uplink import WireFormat
from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.toy import toy

ITEMS, DIM = 40, 4
TABLE = ITEMS * DIM * 4  # float32
_TABLE_SHAPE = jax.ShapeDtypeStruct((ITEMS, DIM), jnp.float32)


def _engine_bytes(method, rounds):
    """(up, down) of one client in each round of a run."""
    engine = Engine(method, small(25), client_mesh(1), chunk=7, evaluate_at="trained")
    state, sent = engine.initial_state(), []
    for number in range(1, rounds + 1):
        state, outcome = engine.run_round(state, number, evaluate=True)
        assert outcome.bytes.clients == 25
        assert outcome.bytes.up_total == 25 * outcome.bytes.up
        assert outcome.bytes.down_total == 25 * outcome.bytes.down
        sent.append((outcome.bytes.up, outcome.bytes.down))
    return sent


def _first_bytes(method):
    """(up, down) of one client in the first round, without running it."""
    return _bytes_at(method, method.init(jax.random.key(0), small()))


def _bytes_at(method, server):
    sent = round_bytes(method, method.broadcast(server), _TABLE_SHAPE, clients=1)
    return sent.up_total, sent.down_total


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
    assert _bytes_at(method, server) == (TABLE, 0)
    # Bits are for all clusters that there may be, not for those that happen to be used.
    labels = Labels(jnp.zeros(ITEMS, jnp.int32), jnp.bool_(True))
    _, down = _bytes_at(method, server._replace(labels=labels))
    assert down == math.ceil(ITEMS * bits / 8)


@pytest.mark.parametrize("clustering", ["leiden", "louvain"])
def test_found_communities_take_the_bits_of_as_many_as_were_found(clustering) -> None:
    method = tiny("cgfedrec", clustering=clustering)
    server = method.init(jax.random.key(0), small())
    server = method.between_rounds(np.random.default_rng(0), 1, server)
    found = len(set(server.labels.labels.tolist()))
    assert found > 1
    bits = math.ceil(math.log2(found))
    assert _bytes_at(method, server) == (TABLE, math.ceil(ITEMS * bits / 8))


@pytest.mark.parametrize("bits", [1, 5, 8, 16])
@pytest.mark.parametrize("name", ["cgfedrec", "pfedrec", "fedmf"])
def test_quantized_tables_carry_two_scales_a_row(name, bits) -> None:
    up, down = _first_bytes(tiny(name, bits=bits))
    assert up == math.ceil(ITEMS * DIM * bits / 8) + 8 * ITEMS
    assert down == _first_bytes(tiny(name))[1]  # the download is not quantized


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
    ledger.add(RoundBytes(up_total=30, down_total=0, clients=3))
    ledger.add(RoundBytes(up_total=20, down_total=14, clients=2))
    assert (ledger.up, ledger.down) == (50, 14)


def test_a_round_s_mean_is_rounded_and_its_total_is_not() -> None:
    sent = RoundBytes(up_total=20, down_total=1, clients=3)
    assert (sent.up, sent.down) == (7, 0)


# Uploads of different sizes -------------------------------------------------------------------


def _counting(form):
    """The toy, whose client k says that its upload held k % 5 pairs of 40 items.

    Which client is whose is known in ``reduce`` only from the upload, as for a real method.
    """

    def local_update(key, client, download, data):
        return client, data.client.astype(jnp.float32), Info(jnp.float32(0))

    def reduce(acc, uploads, weights):
        acc, _ = weighted_sum(acc, uploads, weights)
        client = uploads.astype(jnp.int32)
        return acc, {"pairs": client % 5, "rows": client % 2}

    return toy()._replace(
        local_update=local_update,
        reduce=reduce,
        server_step=lambda key, server, reduced: server._replace(round=server.round + 1),
        traffic=lambda download, upload, sent: Traffic(down=(), up=form(sent)),
    )


def _pairs_and_rows(sent):
    assert all(type(count) is int for count in sent.values())
    return uplink.pairs(ITEMS, sent["pairs"], value_bits=8), WireFormat((sent["rows"], 4), 32)


@pytest.mark.parametrize(
    "plan",
    [
        {"chunk": 1},
        {"chunk": 7},
        {"chunk": 25},
        {"devices": 2},
        {"devices": 2, "chunk": 4},
        {"debug": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("cohort", [1.0, 9])
def test_every_client_pays_for_what_it_sent(plan, cohort, two_devices) -> None:
    plan = dict(plan)
    mesh = client_mesh(plan.pop("devices", 1))
    engine = Engine(_counting(_pairs_and_rows), small(25), mesh, seed=3, cohort=cohort, **plan)
    state = engine.initial_state()
    for number in (1, 2):
        rng = host_rng(3, number, Purpose.COHORT)
        part = np.arange(25) if cohort == 1.0 else rng.choice(25, 9, replace=False)
        state, outcome = engine.run_round(state, number)
        # 780 pairs have indices of 10 bits: 18 bits a pair, in whole bytes a client.
        expected = sum(math.ceil((k % 5) * 18 / 8) + 16 * (k % 2) for k in part.tolist())
        assert outcome.bytes == (expected, 0, len(part), 0)


def test_equal_uploads_are_counted_once() -> None:
    asked = []

    def form(sent):
        asked.append((sent["pairs"], sent["rows"]))
        return _pairs_and_rows(sent)

    clients = np.arange(100_000, dtype=np.int32)
    counts = {"pairs": clients % 5, "rows": clients % 2}
    method = _counting(form)
    sent = round_bytes(method, Broadcast(()), (), counts, clients=len(clients))
    assert sorted(asked) == [(pairs, rows) for pairs in range(5) for rows in range(2)]
    each = [0, 3, 5, 7, 9]  # bytes of 0 to 4 pairs of 18 bits
    assert sent == (20_000 * sum(each) + 50_000 * 16, 0, 100_000, 0)


def test_the_largest_download_is_counted_in_numbers() -> None:
    """Labels and indices are numbers too, however few bits they take."""
    method = _counting(lambda sent: ())._replace(
        traffic=lambda download, upload, sent: Traffic(
            down=(WireFormat((sent["rows"], 4), 32), uplink.labels(7, 3)), up=()
        )
    )
    counts = {"pairs": np.zeros(3, np.int32), "rows": np.array([3, 5, 4], np.int32)}
    sent = round_bytes(method, Broadcast(()), (), counts, clients=3)
    assert sent.down_values == 5 * 4 + 7
    assert sent.down_total == 12 * 4 * 4 + 3 * 2


def test_the_wire_acts_on_what_was_counted() -> None:
    """A transform that doubles the bits of a value, as the ledger sees it."""

    def doubled(formats):
        wide = [form._replace(value_bits=2 * form.value_bits) for form in formats]
        return tuple(wide)

    method = _counting(lambda sent: (WireFormat((sent["rows"],), 8, floating=True),))
    method = method._replace(uplink=method.uplink._replace(wire=doubled))
    counts = {"pairs": np.zeros(2, np.int32), "rows": np.array([3, 4], np.int32)}
    assert round_bytes(method, Broadcast(()), (), counts, clients=2).up_total == 2 * 7
