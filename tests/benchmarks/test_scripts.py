"""Every benchmark runs at toy size, and its table says what it measured."""

import dataclasses
import json
import math
import shutil

import alignfedrec_ml100k
import alignfedrec_search
import cgfedrec_ml100k
import click_noise
import client_sweep
import communities
import devices
import fedcia_ml100k
import gfmfr_ml100k
import gpu
import harness
import honest_structures
import information_volume
import ldp
import leak_detector
import memory
import pairwise_kernel
import pytest
import recall_bytes
import residual_kmeans
import rqfedrec_ablations
import rqfedrec_quality
import rqfedrec_search
import similarity_budget
import state_dtype
import structure_speed

import fedjax_rec
from fedjax_rec import methods

pytestmark = pytest.mark.slow  # a minute and a half in all, most of it compilation

FORMS = [form.name for form in pairwise_kernel.FORMS]


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


@pytest.mark.parametrize("kernel", ["xla", "native"])
def test_rqfedrec_speed(tmp_path, kernel):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    if kernel == "native" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here")
    import rqfedrec_speed

    sizes = {"dim": 8, "our_clients": 4, "reference_clients": 3}
    table = rqfedrec_speed.run(
        rqfedrec_speed.RQFedRecSpeedOptions(
            toy=True, results=tmp_path, turns=1, kernel=kernel, **sizes
        )
    )
    (row,) = checked(table, tmp_path)
    assert row["kernel"] == kernel
    assert row["clients"] == 10
    assert row["ratio"] == pytest.approx(row["reference s"] / row["ours s"])
    for side in ("ours", "reference"):
        assert row[f"{side} s"] == pytest.approx(row[f"{side} training s"] + row[f"{side} fit s"])
    assert row["re-coding s"] > 0
    assert sum("extrapolated" in note for note in table.notes) == 2


@pytest.mark.parametrize("wrong", [{"turns": 0}, {"our_clients": 0}, {"reference_clients": 11}])
def test_rqfedrec_speed_refuses_what_it_cannot_time(tmp_path, wrong):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    import rqfedrec_speed

    with pytest.raises(harness.InputError):
        rqfedrec_speed.run(
            rqfedrec_speed.RQFedRecSpeedOptions(toy=True, results=tmp_path, kernel="xla", **wrong)
        )


def test_baselines_speed(tmp_path):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    import baselines_speed

    table = baselines_speed.run(
        baselines_speed.BaselinesSpeedOptions(
            toy=True, results=tmp_path, turns=1, reference_clients=3, torch_threads=(1,)
        )
    )
    rows = checked(table, tmp_path)
    assert [row["method"] for row in rows] == ["fedncf", "fedrap", "gpfedrec"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["release s"] / row["ours s"])
        assert row["ratio to lean"] == pytest.approx(row["lean s"] / row["ours s"])
        assert 0 < row["release server s"] < row["release s"]
        for column in ("ours server s", "ratio of training"):
            assert (row[column] is None) == (row["method"] != "gpfedrec")
        assert row["verdict"] == "toy"
    assert any("3 of 30 clients" in note for note in table.notes)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"methods": ("fedmf",)}, "--methods fedmf: choose from fedncf"),
        ({"turns": 0}, "--turns 0"),
        ({"reference_clients": 31}, "--reference-clients 31"),
        ({"reference_clients": -1}, "--reference-clients -1"),
        ({"torch_threads": (1, 0)}, "--torch-threads 1 0"),
        ({"torch_threads": ()}, "--torch-threads"),
    ],
)
def test_baselines_speed_refuses_what_it_cannot_time(tmp_path, wrong, named):
    pytest.importorskip("torch", reason="the reference loop needs PyTorch: .[benchmark]")
    import baselines_speed

    with pytest.raises(harness.InputError, match=named):
        baselines_speed.run(
            baselines_speed.BaselinesSpeedOptions(toy=True, results=tmp_path, **wrong)
        )


def test_leak_detector(tmp_path, monkeypatch):
    """Every method, protocol and place of scoring, each in some case."""
    every = leak_detector.CASES
    cases = [every[0], every[4], *(case for case in every if case.method == "popularity")]
    for part in ("method", "protocol", "evaluate_at"):
        assert {getattr(case, part) for case in cases} == {getattr(case, part) for case in every}
    monkeypatch.setattr(leak_detector, "CASES", cases)
    table = leak_detector.run(leak_detector.LeakOptions(toy=True, results=tmp_path, rounds=2))
    rows = checked(table, tmp_path)
    assert len(rows) == len(cases)
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


def test_devices(two_devices, tmp_path):
    options = devices.DevicesOptions(toy=True, results=tmp_path, turns=1, methods=("pfedrec",))
    rows = checked(devices.run(options), tmp_path)
    assert [row["devices"] for row in rows] == [1, 2]
    assert rows[0]["one device ×"] == 1
    assert rows[1]["one device ×"] == rows[0]["s/round"] / rows[1]["s/round"]


def test_memory(tmp_path):
    rows = checked(memory.run(memory.MemoryOptions(toy=True, results=tmp_path)), tmp_path)
    assert len(rows) == 6
    assert rows[-1]["verdict"] == "ok"


def test_client_sweep(tmp_path):
    options = client_sweep.SweepOptions(
        toy=True, results=tmp_path, rounds=1, methods=("pfedrec", "cgfedrec"), state="host"
    )
    rows = checked(client_sweep.run(options), tmp_path)
    assert [(row["method"], row["clients"]) for row in rows] == [
        ("pfedrec", 10),
        ("cgfedrec", 10),
        ("pfedrec", 40),
        ("cgfedrec", 40),
    ]


def test_state_dtype(tmp_path):
    options = state_dtype.StateDtypeOptions(
        toy=True, results=tmp_path, methods=("cgfedrec",), dtypes=("float32", "int8"), rounds=3
    )
    full, small = checked(state_dtype.run(options), tmp_path)
    assert (full["dtype"], small["dtype"]) == ("float32", "int8")
    # A byte a value and 4 a row, instead of 4 a value: d = 32; the head's bias stays.
    assert 0.25 < small["state kB"] / full["state kB"] < 0.3
    with pytest.raises(
        harness.InputError, match="--dtypes float16: use some of float32, bfloat16, int8"
    ):
        state_dtype.StateDtypeOptions(dtypes=("float16",))


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


def test_pairwise_kernel(tmp_path):
    options = pairwise_kernel.KernelOptions(toy=True, results=tmp_path, turns=2)
    table = pairwise_kernel.run(options)
    rows = checked(table, tmp_path)
    on_cpu = table.environment["device"].endswith("(cpu)")
    assert [row["form"] for row in rows] == (["xla"] * 2 if on_cpu else 2 * FORMS)
    assert any("NOT the kernel's figures" in note for note in table.notes) == on_cpu
    for row in rows:
        assert row["of roofline"] == pytest.approx(row["bound ms"] / row["ms"])
        assert 0 < row["gradient error"] < (2e-3 if row["operands"] == "tf32" else 1e-5)


def test_work_of_the_pairwise_pass():
    """The kernel computes both triangles twice; XLA's form pays in memory for what it keeps."""
    alone = pairwise_kernel.Shape("any", 1000, 32, False, 1)
    xla, pallas = (pairwise_kernel.work_of(alone, form) for form in ("xla", "pallas"))
    assert pallas.flops == pytest.approx(2 * xla.flops, rel=1e-3)
    assert pallas.exponentials == pytest.approx(4 * xla.exponentials, rel=2e-3)
    assert pallas.bytes < xla.bytes / 5
    shared = alone._replace(align=True, clients=10)
    target = 4 * 1000 * 999 / 2
    assert pairwise_kernel.work_of(shared, "pallas").bytes == 10 * pallas.bytes + target


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


def test_click_noise(tmp_path):
    options = click_noise.ClickNoiseOptions(
        toy=True,
        results=tmp_path,
        rounds=2,
        seeds=(0,),
        fractions=(0.1,),
        methods=("fedmf", "popularity"),
    )
    rows = checked(click_noise.run(options), tmp_path)
    assert [(row["method"], row["clicks %"]) for row in rows] == [
        *(("FedMF", 0), ("FedMF", 10)),
        *(("popularity", 0), ("popularity", 10)),
    ]
    for row in rows:
        assert row["clicks %"] or row["Recall lost %"] == 0
        assert row["clicks %"] == 0 or row["Recall lost %"] != 0
    assert (tmp_path / "click_noise.png").read_bytes().startswith(b"\x89PNG")


def test_ldp(tmp_path):
    options = ldp.LDPOptions(
        toy=True,
        results=tmp_path,
        rounds=2,
        seeds=(0,),
        scales=(0.5,),
        lines=("rqfedrec", "popularity"),
    )
    table = ldp.run(options)
    rows = checked(table, tmp_path)
    assert [(row["method"], row["δ"]) for row in rows] == [
        *(("RQFedRec", 0), ("RQFedRec", 0.5)),
        ("popularity", 0),
    ]
    assert any("no ε follows" in note for note in table.notes)
    assert (tmp_path / "ldp.png").read_bytes().startswith(b"\x89PNG")


def test_information_volume(tmp_path):
    options = information_volume.VolumeOptions(
        toy=True, results=tmp_path, rounds=3, parts=tmp_path / "parts"
    )
    rows = checked(information_volume.run(options), tmp_path)
    assert [row["method"] for row in rows] == ["FedMF"] * 11 + ["RQFedRec"] * 11
    for row in rows:
        assert 0 < row["later"] < 2_000
        assert 0 < row["kept %"] <= 100.01  # no shortcut is longer than the way
    shares = [row["% of clicks"] for row in rows[1:11]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100)
    assert (tmp_path / "information_volume.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "parts").exists()  # toy figures are not kept


def test_rqfedrec_quality(tmp_path):
    options = rqfedrec_quality.QualityOptions(
        toy=True,
        results=tmp_path,
        methods=("rqfedrec", "popularity"),
        federations=("ml-100k-ratio",),
        seeds=(0, 1),
        rounds=2,
    )
    table = rqfedrec_quality.run(options)
    rows = checked(table, tmp_path)
    assert [row["method"] for row in rows] == [
        *("rqfedrec", "rqfedrec (published)", "popularity"),
        *("fedmf (published)", "local-mf (published)", "fedcia (published)"),
    ]
    ours, paper = rows[0], rows[1]
    assert ours["seeds"] == 2
    assert ours["± Recall@10"] > 0
    share = ours["Recall@10"] / paper["Recall@10"]
    assert f"rqfedrec {share:.0%} of published" in table.notes[0]


def test_rqfedrec_quality_says_whether_the_published_order_holds():
    ours = {"rqfedrec": 15.0, "fedmf": 15.5, "local-mf": 5.0, "rqfedrec (published)": 20.0}
    rows = [
        {"federation": "ml-1m-ratio", "method": name, "Recall@10": value}
        for name, value in ours.items()
    ]
    assert rqfedrec_quality._verdict("ml-1m-ratio", rows) == (
        "ml-1m-ratio, Recall@10: rqfedrec 15.00 BELOW fedmf 15.50; fedmf 15.50 ≥ local-mf 5.00; "
        "rqfedrec 75% of published (MISSES)."
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ("pfedrec",)}, "--methods pfedrec: choose from rqfedrec"),
        ({"federations": ("ml-1m",)}, "--federations ml-1m: choose from ml-100k-ratio"),
        ({"seeds": ()}, "--seeds"),
        ({"large_seeds": (1, 1)}, "--seeds 1 1"),
        ({"stage": 3, "toy": False}, "--stage 3 must be a multiple of --eval-every 5"),
    ],
)
def test_rqfedrec_quality_refuses_what_it_cannot_run(tmp_path, wrong, message):
    options = {"toy": True, "results": tmp_path, **wrong}
    with pytest.raises(harness.InputError, match=message):
        rqfedrec_quality.run(rqfedrec_quality.QualityOptions(**options))


def test_rqfedrec_ablations(tmp_path):
    options = rqfedrec_ablations.AblationOptions(
        toy=True, results=tmp_path, variants=("w/o codebooks",), rounds=2
    )
    rows = checked(rqfedrec_ablations.run(options), tmp_path)
    assert [(row["variant"], row["kind"]) for row in rows] == [
        ("RQFedRec", "full"),
        ("w/o codebooks", "left out"),
    ]
    assert rows[1]["Δ Recall@10"] == rows[1]["Recall@10"] - rows[0]["Recall@10"]
    assert (tmp_path / "rqfedrec_ablations.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(harness.InputError, match="--variants 'w/o users': choose from"):
        rqfedrec_ablations.run(dataclasses.replace(options, variants=("w/o users",)))


def test_rqfedrec_search(tmp_path):
    options = rqfedrec_search.SearchOptions(
        toy=True, results=tmp_path, methods=("fedmf",), rounds=2, dim=4
    )
    table = rqfedrec_search.run(options)
    rows = checked(table, tmp_path)
    assert sorted(row["kind"] for row in rows) == ["grid", "single"]
    scores = [row["val Recall"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert any(rows[0]["trial"] in note for note in table.notes)
    with pytest.raises(harness.InputError, match="--methods popularity: choose from"):
        rqfedrec_search.run(dataclasses.replace(options, methods=("popularity",)))


def test_rqfedrec_search_goes_on_past_failures_and_from_its_log(tmp_path, monkeypatch):
    calls = []

    def validate(method, problem, budget, *, seed, devices):
        calls.append(method.config)
        if method.config.lr == 0.03:
            raise harness.TrainingError("diverged")
        found = 10 + method.config.lr - method.config.init_std
        return {"val Recall": found, "val NDCG": 5.0, "best": 5, "rounds": 10, "s/round": 0.1}

    toy = harness.Options(toy=True)
    monkeypatch.setattr(rqfedrec_search, "dataset", lambda name, _: harness.dataset(name, toy))
    monkeypatch.setattr(rqfedrec_search.trials, "validate", validate)
    monkeypatch.setattr(rqfedrec_search, "LEARNING_RATES", (0.003, 0.01, 0.03))
    monkeypatch.setattr(rqfedrec_search, "WEIGHT_DECAYS", (0.0, 1e-5))
    singles = {"fedmf": ({"init_std": 0.0001}, {"local_epochs": 4})}
    monkeypatch.setattr(rqfedrec_search, "SINGLES", singles)
    options = rqfedrec_search.SearchOptions(
        results=tmp_path, methods=("fedmf",), trials=tmp_path / "log.jsonl"
    )
    first = rqfedrec_search.run(options)
    grid = len(rqfedrec_search.LEARNING_RATES) * len(rqfedrec_search.WEIGHT_DECAYS)
    assert len(calls) == len(first.rows) == grid + len(rqfedrec_search.SINGLES["fedmf"])
    assert "learning rate 0.01, decay 0" in first.notes[0]  # singles are changes to this
    assert all(config.lr == 0.01 for config in calls[grid:])
    assert first.rows[0]["trial"].endswith("init_std 0.0001")
    failed = [row for row in first.rows if row["val Recall"] is None]
    assert [row["error"] for row in failed] == ["diverged"] * len(rqfedrec_search.WEIGHT_DECAYS)
    assert first.rows[-len(failed) :] == failed

    assert rqfedrec_search.run(options).rows == first.rows
    assert len(calls) == len(first.rows)
    rqfedrec_search.run(dataclasses.replace(options, retry_failed=True))
    assert len(calls) == len(first.rows) + len(failed)


def test_recall_bytes(tmp_path):
    options = recall_bytes.BytesOptions(
        toy=True, results=tmp_path, methods=("popularity", "rqfedrec"), rounds=2
    )
    table = recall_bytes.run(options)
    rows = checked(table, tmp_path)
    assert [(row["method"], row["channels"], row["bits"]) for row in rows] == [
        ("popularity", None, None),
        ("rqfedrec", 2, None),
        ("rqfedrec", 1, 8),
    ]
    assert all(row["kB"] == pytest.approx(row["kB down"] + row["kB up"]) for row in rows)
    assert rows[2]["kB up"] < rows[1]["kB up"]
    assert any(row["smallest"] for row in rows)
    assert (tmp_path / "recall_bytes.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(harness.InputError, match="--methods fedcia: choose from local-mf"):
        recall_bytes.run(dataclasses.replace(options, methods=("fedcia",)))


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


def test_gfmfr_ml100k(tmp_path):
    options = gfmfr_ml100k.FusionOptions(
        toy=True, results=tmp_path, backbones=("PFedRec",), seeds=2, rounds=2, weights=(0.5,)
    )
    rows = checked(gfmfr_ml100k.run(options), tmp_path)
    assert [(row["backbone"], row["fusion"]) for row in rows] == [
        ("PFedRec", "–"),
        ("PFedRec", "0.5"),
    ]
    gain = rows[1]["HR@10"] - rows[0]["HR@10"]
    assert rows[1]["Δ HR@10"] == pytest.approx(gain)
    assert rows[1]["kB up"] > rows[0]["kB up"]
    with pytest.raises(harness.InputError, match="--backbones 'MF': choose from GFMFR"):
        gfmfr_ml100k.run(dataclasses.replace(options, backbones=("MF",)))


def test_alignfedrec_ml100k(tmp_path, monkeypatch):
    """Each method trains once, under the first protocol that has it; rows are made of both."""
    results, simulate = {}, fedjax_rec.simulate

    def train(method, data, **run):
        key = method.name, method.config
        if key not in results:
            results[key] = simulate(method, data, **run)
        return results[key]

    monkeypatch.setattr(fedjax_rec, "simulate", train)
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
    presets = methods.PRESETS["alignfedrec"]
    assert len(rows) == 2 * len(names) - 1 + len(presets)
    assert len(results) == len(names) - 1 + len(presets)  # "for longer" is one of them


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


@pytest.mark.parametrize("part", ["ideas", "test"])
def test_honest_structures(part, tmp_path, monkeypatch):
    """A few entries of each part: all of them are minutes."""
    few = {
        name: [e for e in entries if e.label in ("popularity", "heads from labels: MLCGFedRec")]
        or entries[-1:]
        for name, entries in honest_structures.PARTS.items()
    }
    few["test"].append(honest_structures.FINAL[2])
    monkeypatch.setattr(honest_structures, "PARTS", few)
    options = honest_structures.StructureOptions(
        toy=True, results=tmp_path, part=part, seeds=(0, 1), rounds=3
    )
    rows = checked(honest_structures.run(options), tmp_path)
    assert all(row["seeds"] == 2 for row in rows)
    if part == "ideas":
        (row,) = rows
        # 60 items of 16 coordinates and a popularity of 4 bits each, and 16 scales.
        assert row["kB down a round"] == pytest.approx((60 * 17 * 4 / 8 + 64) / 1e3)
        assert "last HR@10" in row
    if part == "test":
        assert rows[0]["p against popularity"] is None
        assert 0 <= rows[1]["p against popularity"] <= 1
