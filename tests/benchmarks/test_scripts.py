"""Every benchmark runs at toy size, and its table says what it measured."""

import dataclasses
import json
import math

import alignfedrec_ml100k
import alignfedrec_search
import cgfedrec_ml100k
import client_sweep
import communities
import fedcia_ml100k
import gpu
import harness
import leak_detector
import memory
import pytest
import residual_kmeans
import similarity_budget
import structure_speed

from fedjax_rec import methods


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
    assert memory.gradient_temporaries(12_454, 64, align=False) < 128e6
    assert memory.gradient_temporaries(12_454, 64, align=True) < 256e6


def test_memory(tmp_path):
    rows = checked(memory.run(memory.MemoryOptions(toy=True, results=tmp_path)), tmp_path)
    assert len(rows) == 6
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


def test_communities(tmp_path):
    table = communities.run(communities.CommunitiesOptions(toy=True, results=tmp_path, turns=1))
    rows = checked(table, tmp_path)
    assert [row["graph"] for row in rows] == ["planted", "planted", "all pairs", "all pairs"]
    assert [row["edges"] for row in rows] == [8_000, 8_000, 1_770, 1_770]
    assert all(row["NMI"] > 0.9 for row in rows[:2])
    assert all(row["verdict"] == "ok" for row in rows)


def test_communities_refuses_more_edges_than_there_is_room_for(tmp_path):
    options = communities.CommunitiesOptions(results=tmp_path, items=100, edges=5_000, groups=10)
    with pytest.raises(harness.InputError, match="use 250 edges or fewer"):
        communities.run(options)


def test_residual_kmeans(tmp_path):
    options = residual_kmeans.QuantizeOptions(toy=True, results=tmp_path)
    rows = checked(residual_kmeans.run(options), tmp_path)
    assert [(row["items"], row["codes"]) for row in rows] == [
        (60, "residual k-means"),
        (60, "residual k-means, mini-batch"),
        (60, "residual k-means of 8 components"),
        (60, "RQ-VAE"),
        (60, "hash"),
        (200, "residual k-means"),
        (200, "residual k-means, mini-batch"),
        (200, "residual k-means of 8 components"),
    ]
    for row in rows:
        assert 1 > row["error, 1"] > row["error, 2"] > row["error, 3"] >= 0
        assert row["distinct codes"] <= row["items"]
        assert 1 <= row["effective, last level"] <= row["codewords"]
    assert rows[0]["error, 3"] < rows[4]["error, 3"]  # learnt codes beat chance


def test_residual_kmeans_refuses_no_turns(tmp_path):
    with pytest.raises(harness.InputError, match="--turns 0"):
        residual_kmeans.run(residual_kmeans.QuantizeOptions(results=tmp_path, turns=0))


def test_similarity_budget(tmp_path):
    options = similarity_budget.BudgetOptions(
        toy=True,
        results=tmp_path,
        parts=tmp_path / "parts",
        catalogues=("ml-100k",),
        init_stds=(0.01,),
        thresholds=(0.3,),
        trained_bits=(32, 4),
    )
    table = similarity_budget.run(options)
    rows = checked(table, tmp_path)
    assert [(row["kind"], row["by"]) for row in rows] == [
        ("measured", "alignfedrec"),
        ("measured", "alignfedrec"),  # for longer
        ("measured", "alignfedrec-no-gsa"),
        ("measured", "pfedrec"),
        ("trained", "preset leak-free"),
    ]
    assert (tmp_path / "similarity_budget.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "parts").exists()  # toy figures are not kept
    for row in rows:
        assert 0 < row["pairs"] <= row["M_g pairs"] <= 60 * 59 / 2
        assert row["up B, 4 bit"] <= row["up B, 8 bit"] <= row["up B, 32 bit"]
    assert 0 <= rows[-1]["HR@10, 32 bit"] <= 100
    assert rows[-1]["HR@10, 8 bit"] is None  # that width was not trained


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def measure(subject, thresholds, options):
        calls.append(subject)
        return {"items": 4, "dim": 2, "counts": [[3, 1]], "union": [3, 1], "sent_bytes": 1}

    monkeypatch.setattr(similarity_budget, "_measure", measure)
    options = similarity_budget.BudgetOptions(
        results=tmp_path,
        parts=tmp_path / "parts",
        catalogues=("amazon", "synthetic-4"),
        thresholds=(0.2, 0.5),
    )
    first = similarity_budget.run(options).rows
    assert len(calls) == 3  # amazon from two initial scales
    assert similarity_budget.run(options).rows == first
    assert len(calls) == 3
    similarity_budget.run(dataclasses.replace(options, seed=1))
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"catalogues": ("netflix",)}, "--catalogues netflix: choose from ml-100k"),
        ({"catalogues": ("synthetic-many",)}, "--catalogues synthetic-many"),
        ({"trained_bits": (16,)}, "--trained-bits 16: choose from 32, 8, 4"),
        ({"thresholds": (0.5, 0.2)}, "--thresholds"),
        ({"rounds": 0}, "--rounds 0 must be 1 or more"),
    ],
)
def test_similarity_budget_refuses_what_it_cannot_measure(tmp_path, wrong, message):
    with pytest.raises(harness.InputError, match=message):
        similarity_budget.run(similarity_budget.BudgetOptions(results=tmp_path, **wrong))


def test_alternatives_by_hand():
    assert similarity_budget.alternatives(1_682, 64) == {
        "id": 1_682 * 64 * 4,
        "labels": 1_262,  # 6 bits each
        "codebook": 3 * 256 * 64 * 4,
    }


def test_alignment(tmp_path):
    pytest.importorskip("torch", reason="the reference needs PyTorch: .[benchmark]")
    import alignment

    table = alignment.run(alignment.AlignmentOptions(toy=True, results=tmp_path, turns=2))
    (row,) = checked(table, tmp_path)
    assert row["relative difference"] < 1e-4  # both sides took the same steps
    assert row["ratio"] == pytest.approx(row["reference s"] / row["ours s"])
    assert row["ours s"] > row["eigenproblem s"]
    assert any("extrapolated" in note for note in table.notes)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"ours_clients": 0}, {"torch_threads": 0}])
def test_alignment_refuses_what_it_cannot_time(tmp_path, wrong):
    pytest.importorskip("torch", reason="the reference needs PyTorch: .[benchmark]")
    import alignment

    with pytest.raises(harness.InputError):
        alignment.run(alignment.AlignmentOptions(toy=True, results=tmp_path, **wrong))


def test_fedcia_ml100k(tmp_path):
    options = fedcia_ml100k.FedCIAOptions(
        toy=True, results=tmp_path, fedcia_rounds=2, clients=(100,), methods=("fedcia", "fedcia-gf")
    )
    rows = checked(fedcia_ml100k.run(options), tmp_path)
    assert [row["method"] for row in rows] == ["fedcia", "fedcia (published)", "fedcia-gf"]
    assert [row["rounds"] for row in rows if "rounds" in row] == [2, 1]
    assert all(0 <= row["Recall@10"] <= 100 for row in rows)


def test_fedcia_ml100k_stops_early_and_goes_on_from_disk(tmp_path, monkeypatch):
    """Two stages of two rounds with a patience of one; called again, it trains nothing more."""
    options = fedcia_ml100k.FedCIAOptions(
        results=tmp_path,
        runs=tmp_path / "runs",
        clients=(943,),
        methods=("local-mf",),
        single_dim=4,
        rounds=40,
        stage=2,
        patience=1,
    )
    toy = harness.Options(toy=True)
    monkeypatch.setattr(fedcia_ml100k, "dataset", lambda name, _: harness.dataset(name, toy))
    (first,) = fedcia_ml100k.run(options).rows
    assert first["rounds"] - first["best"] >= 1
    assert first["rounds"] < 40
    (again,) = fedcia_ml100k.run(options).rows
    assert again == first


@pytest.mark.parametrize("wrong", [{"methods": ("pfedrec",)}, {"clients": (7,)}, {"stage": 3}])
def test_fedcia_ml100k_refuses_what_it_does_not_know(tmp_path, wrong):
    with pytest.raises(harness.InputError):
        fedcia_ml100k.run(fedcia_ml100k.FedCIAOptions(toy=True, results=tmp_path, **wrong))


def test_structure_speed(tmp_path):
    options = structure_speed.StructureOptions(toy=True, results=tmp_path, turns=1, dim=4)
    rows = checked(structure_speed.run(options), tmp_path)
    assert [row["form"] for row in rows][:3] == [
        "CGFedRec",
        "AlignFedRec",
        "AlignFedRec without its uplink",
    ]
    base = rows[0]["device s"]
    assert all(row["of CGFedRec"] == pytest.approx(row["device s"] / base) for row in rows)


def test_alignfedrec_ml100k(tmp_path):
    options = alignfedrec_ml100k.AlignOptions(
        toy=True,
        results=tmp_path,
        rounds=1,
        leak_free_rounds=1,
        local_rounds=2,
        preset_rounds=1,
        pfedrec_rounds=1,
    )
    rows = checked(alignfedrec_ml100k.run(options), tmp_path)
    names = [row["method"] for row in rows if row["protocol"] == "published"]
    assert names == [
        "AlignFedRec",
        "without ICA",
        "without GSA",
        "local-only (without both)",
        "graph threshold 0.06",
        "PFedRec",
        "popularity",
        "local-only (without both), for longer",
    ]
    assert len(rows) == 2 * len(names) - 1 + len(methods.PRESETS["alignfedrec"])


def test_alignfedrec_search(tmp_path):
    options = alignfedrec_search.SearchOptions(
        toy=True, results=tmp_path, trials=1, rounds=1, dim=4, thresholds=(0.8,)
    )
    rows = checked(alignfedrec_search.run(options), tmp_path)
    assert [row["trial"] for row in rows] == [
        *("write-up", "write-up, std 0.01"),
        *("preset leak-free", "preset leak-free, σ 0.8"),
        "draw 0",
    ]
    drawn = alignfedrec_search.draw(0, seed=0)
    assert {key: rows[-1][key] for key in drawn} == drawn
