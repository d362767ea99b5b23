"""Stages end where they should, and a run's figures are read at its best validation round."""

from types import SimpleNamespace

import harness
import pandas as pd
import pytest
import staged
from harness import InputError

import fedjax_rec
from fedjax_rec import methods


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "--rounds 0 must be 1 or more"),
        ({"patience": 0}, "--patience 0"),
        ({"eval_every": 0}, "--eval-every 0"),
        ({"stage": 3, "eval_every": 2}, "--stage 3 must be a multiple of --eval-every 2"),
    ],
)
def test_stages_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        staged.Stages(**{"rounds": 10, **wrong})


@pytest.fixture
def simulated(monkeypatch):
    """Lengths that runs are asked for, of a method that is at its best in round 3."""
    asked: list[int] = []

    def simulate(*_, rounds, out, resume, **__):
        assert resume == (out is not None)
        asked.append(rounds)
        return SimpleNamespace(summary={"best_round": min(rounds, 3)})

    monkeypatch.setattr(fedjax_rec, "simulate", simulate)
    return asked


@pytest.mark.parametrize(
    ("stages", "reached", "expected"),
    [
        ({"stage": 2, "patience": 3}, None, [2, 4, 6]),  # 6 is the first look 3 rounds after 3
        ({"stage": 2, "patience": 3}, 5, [6]),
        ({"stage": 2, "patience": 3}, 6, [6]),
        ({"stage": 2, "patience": 9}, 6, [6, 8, 9]),
        ({"stage": 4, "patience": 9}, None, [4, 8, 9]),
        ({"stage": 20, "patience": 9, "eval_every": 5}, None, [9]),
        ({"rounds": 1, "stage": 2}, None, [1]),
    ],
)
def test_looks_at_a_run(tmp_path, monkeypatch, simulated, stages, reached, expected):
    monkeypatch.setattr(staged.Checkpoints, "latest_round", lambda self: reached)
    chosen = staged.Stages(**{"rounds": 9, **stages})
    staged.train(None, None, chosen, seed=0, label="a", out=tmp_path)
    assert simulated == expected


def test_a_run_without_a_folder_runs_through(simulated):
    stages = staged.Stages(50, stage=2, patience=1, eval_every=2)
    staged.train(None, None, stages, seed=0, label="a", out=None)
    assert simulated == [50]


def test_figures_of_a_run():
    data = harness.dataset("any", harness.Options(toy=True))
    stages = staged.Stages(1)
    result = staged.train(methods.popularity(), data, stages, seed=0, label="a", out=None)
    found = staged.figures(result)
    summary = result.summary
    assert found["best"] == summary["best_round"] == 1
    assert found["Recall@10"] == 100 * summary["test"]["recall@10/full"]
    assert found["NDCG*@10"] == 100 * summary["test"]["ndcg@10/full-published"]
    assert found["val Recall"] == 100 * summary["validation"]["recall@10/full"]
    assert found["MB up"] == pytest.approx(4 * data.num_items / 1e6)


def test_bytes_are_a_mean_over_the_rounds_that_led_to_the_best():
    """5 clients; nothing comes down in the first round; the third round is worse."""
    rows = [
        {"round": 1, "uplink_bytes_total": 10_000_000, "downlink_bytes_total": 0},
        {"round": 2, "uplink_bytes_total": 20_000_000, "downlink_bytes_total": 5_000_000},
        {"round": 3, "uplink_bytes_total": 30_000_000, "downlink_bytes_total": 10_000_000},
    ]
    metrics = dict.fromkeys(staged._METRICS.values(), 0.25)
    history = [
        {**row, **metrics, "clients": 5, "split": s} for row in rows for s in ("val", "test")
    ]
    seconds = {"seconds": [9.0, 4.0, 4.0], "compile_seconds": [6.0, 1.0, 0.0]}
    result = SimpleNamespace(
        summary={"best_round": 2, "rounds": 3},
        history=pd.DataFrame(history),
        timings=pd.DataFrame({**seconds, "eval_seconds": [0.5, 0.5, 0.5]}),
    )
    found = staged.figures(result)
    assert (found["best"], found["rounds"]) == (2, 3)
    assert (found["MB up"], found["MB down"]) == (2.0, 0.5)
    assert found["s/round"] == 2.5
    assert found["val Recall"] == found["F1@10"] == 25.0


def test_means_and_deviations_over_seeds():
    runs = [{"best": 2, "Recall@10": 10.0}, {"best": 4, "Recall@10": 13.0}]
    row = staged.over_seeds(runs)
    assert row == {
        "seeds": 2,
        "best": 3.0,
        "Recall@10": 11.5,
        "± Recall@10": pytest.approx(3 / 2**0.5),
    }
    assert staged.over_seeds(runs[:1]) == {
        "seeds": 1,
        "best": 2,
        "Recall@10": 10.0,
        "± Recall@10": None,
    }
