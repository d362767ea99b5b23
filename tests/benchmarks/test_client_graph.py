"""The benchmark of the servers that compare all clients, at toy size."""

import math

import client_graph
import harness
import pytest


def test_every_method_is_timed(tmp_path) -> None:
    options = client_graph.ClientGraphOptions(toy=True, results=tmp_path, turns=1)
    table = client_graph.run(options)
    assert [row["method"] for row in table.rows] == list(client_graph.METHODS)
    for row in table.rows:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        assert row["s"] > 0
    of = {row["method"]: row for row in table.rows}
    copy = 4 * of["gpfedrec"]["clients"] * 50 * 8 / 1e9
    assert of["gpfedrec"]["arguments GB"] == pytest.approx(2 * copy, rel=0.05)
    assert of["gpfedrec"]["result GB"] == pytest.approx(copy, rel=0.2)
    assert (tmp_path / "client_graph.json").exists()
    table.show()


@pytest.mark.parametrize("wrong", [{"methods": ("pfedrec",)}, {"toy": False, "clients": 7}])
def test_it_refuses_what_it_cannot_time(tmp_path, wrong, two_devices) -> None:
    options = {"toy": True, "results": tmp_path, **wrong}
    with pytest.raises(harness.InputError):
        client_graph.run(client_graph.ClientGraphOptions(**options))
