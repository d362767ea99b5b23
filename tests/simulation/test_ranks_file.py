"""``ranks.npz``: a run's metrics follow from it, with neither data nor model at hand."""

import json

import numpy as np
import pytest

from fedjax_rec.data import load_dataset, make_problem
from fedjax_rec.evaluation import f1, hit_ratio, mrr, ndcg, ndcg_published, precision, recall
from tests.cli.commands import TINY, here

_METRICS = {
    **{"hr": hit_ratio, "ndcg": ndcg, "recall": recall},
    **{"mrr": mrr, "precision": precision, "f1": f1},
}


@pytest.fixture(scope="module", params=["loo", "ratio"])
def run(request, tmp_path_factory):
    """A run under each split: its ranks, its summary and its problem."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    words = ("--split", request.param, "--rounds", 2, "--clients", 7, "--seed", 5)
    here("run", "fedmf", *TINY, "--dim", 4, *words, "--no-report", "--quiet", "--out", out)
    with np.load(out / "ranks.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    dataset = load_dataset("synthetic", users=24, items=40, interactions_per_user=8)
    problem = make_problem(dataset, split=request.param, clients=7, seed=5)
    return found, json.loads((out / "summary.json").read_text()), problem


def test_all_metrics_follow(run):
    arrays, summary, _ = run
    assert arrays["round"] == summary["best_round"]
    for split, told in {"val": summary["validation"], "test": summary["test"]}.items():
        for name, value in told.items():
            kind, _, ranking = name.partition("@10/")
            if ranking == "full-published":
                if kind == "mrr":
                    continue
                values = ndcg_published(arrays[f"{split}_top"], arrays[f"{split}_items"])
            else:
                values = _METRICS[kind](arrays[f"{split}_{ranking}"], 10)
            assert np.nanmean(values) == pytest.approx(value), (split, name)


def test_users_and_items_are_the_problems(run):
    arrays, _, problem = run
    dataset = problem.dataset
    assert arrays["user_id"].tolist() == dataset.user_ids[problem.user_index].tolist()
    assert arrays["item_id"].tolist() == dataset.item_ids.tolist()
    assert arrays["train_items"].tolist() == [len(problem.train[u]) for u in range(24)]
    assert arrays["item_users"].sum() == len(problem.train.values)
    assert arrays["item_users"][3] == np.sum(problem.train.values == 3)
    for name, lists in {"val_items": problem.validation, "test_items": problem.test}.items():
        for user, row in enumerate(arrays[name]):
            assert row[row >= 0].tolist() == lists[user].tolist()


def test_padding_is_marked_and_ranks_lie_beside_their_items(run):
    arrays, _, problem = run
    names = {"val_full", "test_full"}
    loo = problem.split == "loo"
    names |= {"val_uni99", "test_uni99"} if loo else {"val_top", "test_top"}
    assert names <= arrays.keys()
    assert {"val_uni99", "val_top"} & arrays.keys() == names & {"val_uni99", "val_top"}
    for split in ("val", "test"):
        padding = arrays[f"{split}_items"] < 0
        ranks = arrays[f"{split}_full"]
        assert ((ranks < 0) == padding).all()
        if not loo:  # an item in the list of the best has the rank of its place there
            for user, row in enumerate(arrays[f"{split}_items"]):
                top = arrays[f"{split}_top"][user].tolist()
                for place, item in enumerate(row.tolist()):
                    if item in top and item >= 0:
                        assert ranks[user, place] == top.index(item)
