"""The public functions: ``load_dataset``, ``simulate`` and what the result holds."""

import dataclasses
import json
import math
import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import fedjax_rec
from fedjax_rec import InputError, TrainingError
from fedjax_rec.errors import RunWarning
from fedjax_rec.evaluation import nmi
from fedjax_rec.server import cosine_similarity_graph, modularity
from tests.problems import small

ROUNDS = 3


def quiet(method, data, **options):
    return fedjax_rec.simulate(method, data, **{"progress": False, **options})


@pytest.fixture(scope="module")
def data():
    return fedjax_rec.load_dataset("synthetic", users=24, items=40, interactions_per_user=8)


@pytest.fixture(scope="module")
def method():
    return fedjax_rec.methods.cgfedrec(clusters=5, dim=8)


@pytest.fixture(scope="module")
def result(method, data):
    return quiet(method, data, rounds=ROUNDS, seed=1)


def test_history_has_two_rows_an_evaluated_round(result):
    assert isinstance(result.history, pd.DataFrame)
    assert list(result.history["round"]) == [1, 1, 2, 2, 3, 3]
    assert list(result.history["split"]) == ["val", "test"] * 3
    assert result.history.filter(like="@").to_numpy().min() >= 0
    assert result.history.filter(like="@").to_numpy().max() <= 1


def test_summary_reads_the_test_metrics_at_the_best_validation_round(result):
    summary, history = result.summary, result.history
    validation = history[history["split"] == "val"].set_index("round")["hr@10/uni99"]
    assert summary["selection"] == "hr@10/uni99"
    assert summary["best_round"] == validation.idxmax()  # the earliest on a tie
    at_best = (history["round"] == summary["best_round"]) & (history["split"] == "test")
    for metric, value in summary["test"].items():
        assert value == history.loc[at_best, metric].item()
    assert summary["protocol"] == "leak-free"
    assert summary["rounds"] == ROUNDS


def test_bytes_add_up(result):
    """CGFedRec: up m·d·4; down m·ceil(log2 C) bits, and nothing before the first clustering."""
    test = result.history[result.history["split"] == "test"]
    assert list(test["uplink_bytes"]) == [40 * 8 * 4] * 3
    assert list(test["downlink_bytes"]) == [0, 40 * 3 // 8, 40 * 3 // 8]
    assert list(test["uplink_bytes_total"]) == [24 * 40 * 8 * 4 * r for r in (1, 2, 3)]
    assert result.summary["downlink_bytes_total"] == 24 * 2 * 15


def test_timings_have_a_row_a_round_that_adds_up(result):
    timings = result.timings
    assert list(timings["round"]) == [1, 2, 3]
    parts = [f"{name}_seconds" for name in ("compile", "device", "host", "eval")]
    np.testing.assert_allclose(timings[parts].sum(axis=1), timings["seconds"])
    assert (timings["checkpoint_seconds"] == 0).all()
    assert (timings["clients"] == 24).all()


def test_client_states_are_numpy_by_client(result):
    for leaf in jax.tree.leaves(result.client_states):
        assert isinstance(leaf, np.ndarray)
        assert leaf.shape[0] == 24
        assert np.isfinite(leaf).all()
    assert result.client_states.items.shape == (24, 40, 8)


def test_the_same_seed_gives_the_same_history_and_another_seed_another(result, method, data):
    again = quiet(method, data, rounds=ROUNDS, seed=1)
    timeless = [c for c in result.history if not c.endswith("seconds")]
    pd.testing.assert_frame_equal(again.history[timeless], result.history[timeless])
    other = quiet(method, data, rounds=1, seed=2)
    assert other.history["train_loss"][0] != result.history["train_loss"][0]


def test_a_prepared_problem_is_taken_as_it_is(method):
    problem = small(protocol="published", split="loo", clients=6)
    result = quiet(method, problem, rounds=1)
    assert result.problem is problem
    assert result.summary["protocol"] == "published"
    # The point at which CGFedRec's own release scores.
    assert result.summary["evaluate_at"] == "trained"
    assert set(result.history["clients"]) == {6}


def test_a_dataset_is_prepared_with_the_given_options(method, data):
    result = quiet(method, data, rounds=1, split="ratio", clients=6, client_limit=4)
    assert (result.problem.split, result.problem.num_clients) == ("ratio", 4)
    assert result.summary["selection"] == "recall@10/full"
    assert "hr@10/uni99" not in result.history


@pytest.mark.parametrize(("cohort", "size"), [(6, 6), (0.25, 6), (1, 1), (1.0, 24), (24, 24)])
def test_a_cohort_is_a_fraction_or_a_number(cohort, size, data):
    result = quiet(fedjax_rec.methods.popularity(), data, rounds=1, cohort=cohort)
    assert set(result.history["clients"]) == {size}
    assert result.history["uplink_bytes_total"][0] == size * 40 * 4


# The server's figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("clustering", ["leiden", "louvain"])
def test_communities_are_described_round_by_round(clustering, data):
    method = fedjax_rec.methods.cgfedrec(clustering=clustering, dim=4, similarity_threshold=0.5)
    result = quiet(method, data, rounds=2)
    server = result.server_state
    last = result.history.iloc[-1]
    sizes = np.bincount(server.labels.labels)
    assert last["communities"] == len(sizes) > 1
    assert last["cluster_sizes"] == sorted(sizes.tolist(), reverse=True)
    assert last["nmi"] == pytest.approx(nmi(server.labels.labels, data.item_cluster))
    graph = cosine_similarity_graph(server.items, threshold=0.5)
    expected = modularity(graph, server.labels.labels, threshold=0.5)
    assert last["modularity"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0
    assert result.summary["warnings"] == list(result.problem.notes)


def test_k_means_has_no_modularity_and_real_data_no_truth(result, data):
    assert {"communities", "nmi"} <= set(result.history)
    assert "modularity" not in result.history
    blind = dataclasses.replace(data, item_cluster=None)
    history = quiet(fedjax_rec.methods.cgfedrec(clusters=5, dim=4), blind, rounds=1).history
    assert "nmi" not in history
    assert set(history["communities"]) == {5}


def test_a_method_without_clusters_has_none_of_it(data):
    history = quiet(fedjax_rec.methods.popularity(), data, rounds=1).history
    assert not {"communities", "nmi", "modularity", "cluster_sizes"} & set(history)


def test_an_empty_graph_is_told_once_a_run(data, tmp_path, capfd, recwarn):
    """No two of 40 random embeddings are that similar: a warning every round, told once a run."""
    method = fedjax_rec.methods.cgfedrec(
        clustering="leiden", dim=16, similarity_threshold=0.999, init_std=1.0
    )
    text = "no similarity reaches the threshold 0.999: every item is its own community"
    for sitting in ("first", "second"):  # Python itself would keep silent in the second
        out = tmp_path / sitting
        result = fedjax_rec.simulate(method, data, rounds=3, out=out, report=False)
        _, err = capfd.readouterr()
        assert err.count(text) == 1
        assert f"warning: {text} (round 1)\n" in err
        assert result.summary["warnings"] == [*result.problem.notes, text]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(row["modularity"] is None for row in rows)
    assert all(row["communities"] == 40 for row in rows)
    resumed = fedjax_rec.simulate(method, data, rounds=5, out=out, resume=True, report=False)
    assert text not in capfd.readouterr()[1]
    assert resumed.summary["warnings"] == [*result.problem.notes, text]
    assert not [w for w in recwarn if issubclass(w.category, RunWarning)]


def test_other_warnings_go_where_they_would(data):
    def warn(rng, round_, server):
        warnings.warn("the library is old", DeprecationWarning, stacklevel=1)
        return server

    method = fedjax_rec.methods.popularity()._replace(between_rounds=warn)
    with pytest.warns(DeprecationWarning, match="the library is old"):
        result = quiet(method, data, rounds=1)
    assert result.summary["warnings"] == list(result.problem.notes)


# As the papers' releases measure ----------------------------------------------------------------


def test_published_metrics_against_plain_python(data):
    """Popularity of the training items, in plain Python from the split to the metric."""
    result = quiet(fedjax_rec.methods.popularity(), data, rounds=1, split="ratio", clients=6)
    problem = result.problem
    counts = np.bincount(problem.train.values, minlength=40)
    for split, lists in (("val", problem.validation), ("test", problem.test)):
        ndcgs, mrrs = [], []
        for user in range(problem.num_users):
            if not len(lists[user]):
                continue
            masked = [*problem.train[user], *(problem.validation[user] if split == "test" else ())]
            pool = [item for item in range(40) if item not in masked]
            best = sorted(pool, key=lambda item: (-counts[item], item))[:10]
            hits = [p for p, item in enumerate(set(best)) if item in lists[user]]
            ideal = sum(1 / math.log2(j + 2) for j in range(len(hits)))
            ndcgs.append(sum(1 / math.log2(p + 2) for p in hits) / ideal if hits else 0.0)
            mrrs.append(1 / (hits[0] + 1) if hits else 0.0)
        row = result.history[result.history["split"] == split].iloc[0]
        assert row["ndcg@10/full-published"] == pytest.approx(np.mean(ndcgs))
        assert row["mrr@10/full-published"] == pytest.approx(np.mean(mrrs))
        assert row["ndcg@10/full-published"] != pytest.approx(row["ndcg@10/full"])
    assert result.summary["test"]["mrr@10/full-published"] == row["mrr@10/full-published"]


def test_leave_one_out_has_no_published_metrics(result):
    assert not [name for name in result.history if name.endswith("-published")]


def test_precision_and_f1_of_one_held_out_item(result):
    """With one item held out they follow from the hit ratio: h/10 and 2h/11."""
    hits = result.history["hr@10/full"]
    np.testing.assert_allclose(result.history["precision@10/full"], hits / 10)
    np.testing.assert_allclose(result.history["f1@10/full"], 2 * hits / 11)


def test_eval_every_evaluates_the_last_round_too(data):
    result = quiet(fedjax_rec.methods.popularity(), data, rounds=5, eval_every=2)
    assert sorted(set(result.history["round"])) == [2, 4, 5]
    assert len(result.timings) == 5


def test_without_out_nothing_is_written(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = quiet(fedjax_rec.methods.popularity(), data, rounds=1)
    assert result.out is None
    assert list(tmp_path.iterdir()) == []


def test_out_holds_what_the_result_says(data, tmp_path):
    out = tmp_path / "a" / "run"
    result = quiet(fedjax_rec.methods.popularity(), data, rounds=2, out=out, report=False)
    assert result.out == out
    assert json.loads((out / "summary.json").read_text()) == result.summary
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history.to_dict("records")
    assert not (out / "report.html").exists()
    assert result.timings["checkpoint_seconds"].iloc[-1] > 0


def test_progress_is_a_line_a_round_below_a_hundred_columns(method, data, capfd):
    fedjax_rec.simulate(method, data, rounds=2)
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert lines[0].startswith("cgfedrec on synthetic: 24 clients, 24 users, 40 items, loo split")
    assert "protocol leak-free" in lines[0]
    rounds = [line for line in lines if line.startswith("round ")]
    assert [line[:9] for line in rounds] == ["round 1/2", "round 2/2"]
    assert max(map(len, rounds)) < 100
    assert len({line.index("clients/s") for line in rounds}) == 1
    assert any(line.startswith("compiled in ") for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"eval_every": 0}, "eval_every=0 must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every=-1 must be at least 1"),
        ({"cohort": 0}, "cohort=0 must be from 1 to the number of clients, 24"),
        ({"cohort": 25}, "cohort=25 must be from 1 to the number of clients, 24"),
        ({"cohort": 1.5}, "cohort=1.5 as a fraction must be above 0 and at most 1"),
        ({"cohort": 0.0}, "cohort=0.0 as a fraction must be above 0"),
        ({"cohort": 0.01}, "is an empty cohort: use at least 0.042"),
        ({"chunk": 0}, "chunk=0 must be 'auto' or at least 1"),
        ({"clients": 25}, "clients=25 is more than the 24 users"),
        ({"client_limit": 25}, "client_limit=25 is more than the 24 clients"),
        ({"split": "half"}, "split='half' is unknown"),
        ({"protocol": "honest"}, "protocol='honest' is unknown"),
        ({"evaluate_at": "never"}, "evaluate_at='never' must be 'download' or 'trained'"),
        ({"resume": True}, "resume needs the folder of the run"),
        ({"devices": 0}, "devices=0 must be at least 1"),
        ({"devices": 99}, "devices=99 but JAX has"),
        ({"debug": True, "devices": 2}, "debug runs client by client on one device"),
        ({"seed": -1}, "seed=-1 is no seed"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, message, data, two_devices):
    with pytest.raises(InputError) as error:
        quiet(fedjax_rec.methods.popularity(), data, **{"rounds": 1, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_more_clusters_than_items_are_refused_before_anything_is_written(data, tmp_path):
    method = fedjax_rec.methods.cgfedrec(clusters=41)
    with pytest.raises(InputError, match="clusters=41 is more than the 40 items of synthetic"):
        quiet(method, data, rounds=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_diverging_training_names_round_and_client(data):
    with pytest.raises(TrainingError, match=r"in round \d+: client \d+ has values .* not finite"):
        quiet(fedjax_rec.methods.pfedrec(lr=3e3), data, rounds=30)


@pytest.mark.data
def test_the_leak_detector_in_small(data_dir):
    """A client that learns alone finds held-out items only where its negatives give them away."""
    dataset = fedjax_rec.load_dataset("ml-100k")
    local = fedjax_rec.methods.local(local_epochs=2)
    found = {}
    for protocol in ("published", "leak-free"):
        result = quiet(local, dataset, protocol=protocol, client_limit=60, rounds=25, eval_every=25)
        found[protocol] = result.summary["test"]["hr@10/uni99"]
    assert found["published"] >= 0.6
    assert found["leak-free"] <= 0.2  # chance is 0.1


def test_what_a_method_s_start_warns_of_is_a_note_of_the_run(capsys) -> None:
    problem = small(split="ratio")
    titles = problem.dataset.item_titles.copy()
    titles[0] = ""
    bare = dataclasses.replace(problem.dataset, item_titles=titles, item_genres=None)
    method = fedjax_rec.methods.rqfedrec(dim=4, codewords=8, noise=0.1)
    result = fedjax_rec.simulate(method, dataclasses.replace(problem, dataset=bare), rounds=1)
    said = capsys.readouterr().err
    assert said.count("they get the mean of the others") == 1
    assert "--noise 0.1" in said
    assert any("they get the mean" in note for note in result.summary["warnings"])
