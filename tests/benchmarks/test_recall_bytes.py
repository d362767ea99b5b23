"""Which federation is the smallest is chosen by validation recall, and said."""

import json

import recall_bytes


def row(method: str, kb: float, val: float, recall: float = 10.0, **more) -> dict:
    sizes = {"d": 8, "M": None, "L": None, "channels": None, "bits": None}
    return {
        "method": method,
        **sizes,
        "kB": kb,
        "val Recall": val,
        "Recall@10": recall,
        "smallest": None,
        **more,
    }


def test_the_smallest_is_chosen_by_validation():
    rows = [row("fedmf", 4.0, 20.0, 10.0), row("fedmf", 2.0, 19.7, 5.0), row("fedmf", 1.0, 19.5)]
    assert recall_bytes.smallest(rows, 0.98 * 20.0) is rows[1]
    assert recall_bytes.smallest(rows, 21.0) is None


def test_references_mark_their_smallest():
    rows = [
        row("local-mf", 0.0, 5.0),
        row("fedmf", 8.0, 20.0, d=16),
        row("fedmf", 4.0, 19.8, d=8),
        row("fedmf", 3.0, 19.9, d=16, bits=4),
        row("rqfedrec", 3.5, 19.0, M=4, L=2, channels=2),
        row("rqfedrec", 2.5, 18.9, M=2, L=2, channels=1),
    ]
    said = recall_bytes._choose(rows)
    assert [r["smallest"] for r in rows] == [
        *(None, None, None),
        "the best, FedMF's widest",
        None,
        "RQFedRec's best",
    ]
    assert said == [
        "Fewest bytes with 98% of the validation recall of the best, fedmf d 16 (8.0 kB): "
        "any method: fedmf d 16, bits 4, 3.0 kB; fedmf: fedmf d 16, bits 4, 3.0 kB.",
        "Fewest bytes with 98% of the validation recall of FedMF's widest, fedmf d 16 (8.0 kB): "
        "any method: fedmf d 16, bits 4, 3.0 kB; fedmf: fedmf d 16, bits 4, 3.0 kB.",
        "Fewest bytes with 98% of the validation recall of RQFedRec's best, "
        "rqfedrec d 8, M 4, L 2 (3.5 kB): "
        "any method: rqfedrec d 8, M 2, L 2, one channel, 2.5 kB; "
        "rqfedrec: rqfedrec d 8, M 2, L 2, one channel, 2.5 kB; "
        "fedmf: fedmf d 16, bits 4, 3.0 kB.",
    ]


def test_fedcia_comes_from_its_own_results(tmp_path):
    file = tmp_path / "fedcia_ml100k.json"
    rows, said = recall_bytes.fedcia_rows(file)
    assert rows == []
    assert "missing" in said[0]

    found = {
        "clients": 100,
        "method": "fedcia",
        "d": 64,
        "val Recall": 17.4,
        "Recall@10": 15.2,
        "MB up": 5.0,
        "MB down": 4.5,
    }
    others = [
        {**found, "clients": 943},
        {**found, "method": "fedmf"},
        {"clients": 100, "method": "fedcia (published)", "Recall@10": 17.49},
        {key: value for key, value in found.items() if key != "MB down"},
    ]
    file.write_text(json.dumps({"rows": [found, *others]}), encoding="utf-8")
    (only,), said = recall_bytes.fedcia_rows(file)
    assert (only["method"], only["d"], only["Recall@10"]) == ("fedcia", 64, 15.2)
    assert (only["kB"], only["kB down"], only["kB up"]) == (9500.0, 4500.0, 5000.0)
    assert "no 'MB down'" in said[0]
    assert "from fedcia_ml100k.json" in said[1]
