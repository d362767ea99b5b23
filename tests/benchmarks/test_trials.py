"""A trial is run once, whatever came of it, and written down whole."""

import json

import harness
import pytest
import trials

from fedjax_rec import load_dataset, methods
from fedjax_rec.data import make_problem
from fedjax_rec.errors import InputError, TrainingError

BUDGET = trials.Budget(rounds=6, patience=2, eval_every=2)


def test_what_is_known_is_not_found_again(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    calls = []

    def work():
        calls.append(1)
        return {"val Recall": 12.5}

    log = trials.TrialLog(path)
    assert log.run({"lr": 0.1}, work) == {"val Recall": 12.5}
    assert log.run({"lr": 0.1}, work) == {"val Recall": 12.5}
    assert trials.TrialLog(path).run({"lr": 0.1}, work) == {"val Recall": 12.5}
    assert len(calls) == 1
    trials.TrialLog(path).run({"lr": 0.2}, work)
    assert len(calls) == 2
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("error", [TrainingError("client 3:\n NaN"), InputError("too many")])
def test_a_failure_is_known_too_until_it_is_retried(tmp_path, error):
    path = tmp_path / "log.jsonl"

    def fail():
        raise error

    found = trials.TrialLog(path).run({"lr": 9}, fail)
    assert found == {"error": " ".join(str(error).split())}
    assert trials.TrialLog(path).run({"lr": 9}, lambda: {}) == found
    retried = trials.TrialLog(path, retry_failed=True)
    assert retried.run({"lr": 9}, lambda: {"val Recall": 1.0}) == {"val Recall": 1.0}
    # The later line is the one that counts.
    assert trials.TrialLog(path).run({"lr": 9}, fail) == {"val Recall": 1.0}


def test_an_error_of_the_program_is_no_failed_trial(tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(ZeroDivisionError):
        trials.TrialLog(path).run({}, lambda: {"val Recall": 1 / 0})
    assert not path.exists()


def test_a_line_cut_short_is_dropped_and_written_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    log = trials.TrialLog(path)
    log.run({"name": "größer"}, lambda: {"val Recall": 1.0})
    whole = path.read_text(encoding="utf-8")
    log.run({"name": "b"}, lambda: {"val Recall": 2.0})
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-5], encoding="utf-8")
    log = trials.TrialLog(path)
    assert path.read_text(encoding="utf-8") == whole
    log.run({"name": "b"}, lambda: {"val Recall": 2.0})
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("line", ["{", '{"trial": {}}', "[]"])
def test_a_line_that_is_no_trial_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"trial": {}, "found": {}}) + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl:2: no trial"):
        trials.TrialLog(path)


def test_validation_stops_after_its_patience():
    data = harness.dataset("any", harness.Options(toy=True))
    problem = make_problem(data, split="ratio", clients=10, seed=0)
    found = trials.validate(methods.popularity(), problem, BUDGET, seed=0)
    # Popularity does not change after its first round, so the second evaluation ends it.
    assert (found["best"], found["rounds"]) == (2, 4)
    assert 0 < found["val Recall"] <= 100
    assert 0 < found["val NDCG"] <= 100
    assert not any("test" in column for column in found)


def test_an_identity_has_all_options_and_survives_json():
    method = methods.fedmf(dim=4)
    key = trials.identity(method, "ml-100k-ratio", BUDGET, seed=3)
    assert key["options"]["dim"] == 4
    assert key["options"]["lr"] == method.config.lr  # a default that changes is another trial
    assert (key["seed"], key["patience"], key["data"]) == (3, 2, "ml-100k-ratio")
    assert json.loads(json.dumps(key)) == key


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"patience": 0}, {"eval_every": 0}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong)).replace('_', '-')} 0"):
        trials.Budget(**{"rounds": 1, "patience": 1, "eval_every": 1, **wrong})


def test_options_that_do_not_fit_the_data_are_a_failed_trial():
    data = load_dataset("synthetic", users=24, items=40, interactions_per_user=8)
    problem = make_problem(data, split="ratio", clients=4, seed=0)
    method = methods.rqfedrec(dim=4, codewords=41)
    found = trials.TrialLog(None).run({}, lambda: trials.validate(method, problem, BUDGET, seed=0))
    assert "codewords=41 is more than the 40 items" in found["error"]
