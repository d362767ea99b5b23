"""Every benchmark runs at toy size, and its table says what it measured."""

import json
import math

import cgfedrec_ml100k
import client_sweep
import gpu
import harness
import leak_detector
import memory
import pytest


def checked(table: harness.Table, folder) -> list[dict]:
    """The rows of a table that is on disk as it is in memory, with finite figures."""
    saved = json.loads((folder / f"{table.name}.json").read_text(encoding="utf-8"))
    assert saved["rows"] == table.rows
    assert saved["options"]["toy"] is True
    for row in table.rows:
        for value in row.values():
            assert not isinstance(value, float) or math.isfinite(value)
    table.show()
    return table.rows


def test_speed(tmp_path):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    import speed

    table = speed.run(
        speed.SpeedOptions(toy=True, results=tmp_path, turns=1, rounds=1, reference_clients=10)
    )
    rows = checked(table, tmp_path)
    assert [row["method"] for row in rows] == ["pfedrec", "cgfedrec"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["reference s"] / row["ours s"])
        assert row["clients/s"] == pytest.approx(row["clients"] / row["ours s"])
    assert rows[0]["bound s"] is None
    assert 0 < rows[1]["of bound"] < 1
    assert any("extrapolated by local steps" in note for note in table.notes)


@pytest.mark.parametrize(
    "wrong", [{"methods": ("fedmf",)}, {"reference_clients": 31}, {"torch_threads": 0}]
)
def test_speed_refuses_what_it_cannot_time(tmp_path, wrong):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    import speed

    with pytest.raises(harness.InputError):
        speed.run(speed.SpeedOptions(toy=True, results=tmp_path, **wrong))


def test_leak_detector(tmp_path):
    table = leak_detector.run(leak_detector.LeakOptions(toy=True, results=tmp_path, rounds=2))
    rows = checked(table, tmp_path)
    assert len(rows) == len(leak_detector.CASES)
    assert all(0 <= row["NDCG@10"] <= row["HR@10"] <= 100 for row in rows)
    popularity = [row["HR@10"] for row in rows if row["method"] == "popularity"]
    assert popularity[0] == popularity[1]  # no negatives, so no protocol


@pytest.mark.parametrize(
    ("case", "hr", "ndcg", "expected"),
    [
        (("local", "published", "trained", 90.0, None, "at least"), 95.0, 79.0, "ok"),
        (("local", "published", "trained", 90.0, None, "at least"), 89.0, 79.0, "misses: HR -1.0"),
        (("local", "leak-free", "trained", 15.0, None, "at most"), 10.0, 4.5, "ok"),
        (("local", "leak-free", "trained", 15.0, None, "at most"), 17.5, 4.5, "misses: HR +2.5"),
        (("pfedrec", "published", "download", 63.6, 37.8), 61.0, 40.5, "ok"),
        (("pfedrec", "published", "download", 63.6, 37.8), 60.0, 37.8, "misses: HR -3.6"),
        (("pfedrec", "published", "download", 63.6, 37.8), 63.6, 42.0, "misses: NDCG +4.2"),
    ],
)
def test_leak_verdicts(case, hr, ndcg, expected):
    assert leak_detector.verdict(leak_detector.Case(*case), hr, ndcg, 3.0) == expected


def test_cgfedrec_ml100k(tmp_path):
    table = cgfedrec_ml100k.run(
        cgfedrec_ml100k.CgfedrecOptions(
            toy=True, results=tmp_path, rounds=3, leak_free_rounds=3, optimizers=("sgd",)
        )
    )
    rows = checked(table, tmp_path)
    assert [(row["protocol"], row["init std"]) for row in rows] == [
        ("leak-free", 1.0),
        ("leak-free", 0.01),
        ("published", 1.0),
    ]
    assert all(1 <= row["best round"] <= 3 for row in rows)


def test_a_contrastive_gradient_at_scale_needs_no_matrix_of_all_pairs():
    assert memory.contrastive_temporaries(12_454, 64) < 128e6


def test_memory(tmp_path):
    rows = checked(memory.run(memory.MemoryOptions(toy=True, results=tmp_path)), tmp_path)
    assert len(rows) == 3
    assert rows[-1]["verdict"] == "ok"


def test_client_sweep(tmp_path):
    table = client_sweep.run(client_sweep.SweepOptions(toy=True, results=tmp_path, rounds=1))
    rows = checked(table, tmp_path)
    assert [(row["method"], row["clients"]) for row in rows] == [
        ("pfedrec", 10),
        ("pfedrec", 40),
        ("cgfedrec", 10),
        ("cgfedrec", 40),
    ]


def test_gpu(tmp_path):
    table = gpu.run(gpu.GpuOptions(toy=True, results=tmp_path))
    rows = checked(table, tmp_path)
    assert len(rows) == 3
    assert rows[0]["transfer s"] > 0
    assert rows[0]["s"] >= rows[0]["host s"] >= 0
    if table.environment["device"].endswith("(cpu)"):
        assert rows[0]["verdict"] == "not a GPU"
        assert any("NOT GPU figures" in note for note in table.notes)


def test_gpu_without_the_data_says_what_it_ran_on(tmp_path, monkeypatch):
    def missing(name, options):
        raise harness.InputError("ml-100k is not there: set FEDJAX_REC_DATA")

    monkeypatch.setattr(gpu, "dataset", missing)
    options = gpu.GpuOptions(toy=True, results=tmp_path)
    table = harness.Table("gpu", "title", options)
    data = gpu._data(options, table)
    assert (data.num_users, data.num_items) == (943, 1682)
    assert "Synthetic" in table.notes[0]
    assert "FEDJAX_REC_DATA" in table.notes[0]
