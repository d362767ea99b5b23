"""Recommendations to look at."""

import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import InputError
from tests.problems import listed, small


@pytest.fixture(scope="module", params=["pfedrec", "cgfedrec", "fedmf", "popularity"])
def result(request):
    method = getattr(fedjax_rec.methods, request.param)
    options = {"clusters": 5} if request.param == "cgfedrec" else {}
    return fedjax_rec.simulate(method(**options), small(), rounds=1, progress=False, seed=3)


def test_the_best_unseen_items_with_titles(result):
    dataset, problem = result.problem.dataset, result.problem
    titles = dict(zip(dataset.item_ids, dataset.item_titles, strict=True))
    for number in (0, 7, 23):
        user = dataset.user_ids[problem.user_index[number]]
        table = result.recommend(user, k=5)
        assert list(table.columns) == ["rank", "item", "title", "score", "held_out"]
        assert list(table["rank"]) == [1, 2, 3, 4, 5]
        assert (np.diff(table["score"]) <= 0).all()
        assert [titles[item] for item in table["item"]] == list(table["title"])
        trained = set(dataset.item_ids[problem.train[number]])
        assert not trained & set(table["item"])


def test_held_out_items_are_marked(result):
    problem, dataset = result.problem, result.problem.dataset
    user = dataset.user_ids[problem.user_index[4]]
    table = result.recommend(user, k=40)
    unseen = 40 - len(problem.train[4])
    assert len(table) == unseen  # no more than there are
    marked = table[table["held_out"] != ""].set_index("held_out")["item"]
    assert marked["validation"] == dataset.item_ids[problem.validation[4][0]]
    assert marked["test"] == dataset.item_ids[problem.test[4][0]]
    assert len(marked) == 2


def test_ranks_agree_with_the_evaluation(result):
    """What a user would be shown after the last round is what the last evaluation ranked."""
    problem, dataset = result.problem, result.problem.dataset
    hits = []
    for number in range(problem.num_users):
        user = dataset.user_ids[problem.user_index[number]]
        table = result.recommend(user, k=40)
        # Test ranking leaves the validation item out; ties count against the held-out item.
        table = table[table["held_out"] != "validation"]
        score = table.set_index("held_out")["score"]["test"]
        hits.append((table["score"] >= score).sum() - 1 < 10)
    final = result.history[result.history["split"] == "test"].iloc[-1]
    assert np.mean(hits) == pytest.approx(final["hr@10/full"])


def test_a_user_may_be_named_by_number_and_titles_may_be_missing():
    problem = listed([[0, 1], [1, 2], [3]], num_items=8)
    method = fedjax_rec.methods.popularity()
    result = fedjax_rec.simulate(method, problem, rounds=1, progress=False)
    table = result.recommend(1, k=3)
    assert table.equals(result.recommend("1", k=3))
    assert list(table.columns) == ["rank", "item", "score", "held_out"]
    # Item 1 is the most popular; of those that user 1 has not seen, 0 and 3, then any.
    assert list(table["item"][:2]) == ["0", "3"]


def test_labels_and_items_are_the_server_s(result):
    m, state = result.problem.num_items, result.server_state
    if result.method.name == "popularity":
        assert result.items is None
    else:
        assert result.items.shape == (m, result.method.config.dim)
        assert result.items.dtype == np.float32
        np.testing.assert_array_equal(result.items, state.items)
    if result.method.name == "cgfedrec":
        assert result.labels.shape == (m,)
        assert len(np.unique(result.labels)) == 5
        np.testing.assert_array_equal(result.labels, state.labels.labels)
    else:
        assert result.labels is None


def test_similarities_give_labels_without_items():
    method = fedjax_rec.methods.alignfedrec(dim=8, local_epochs=1)
    result = fedjax_rec.simulate(method, small(), rounds=1, progress=False)
    assert result.items is None
    np.testing.assert_array_equal(result.labels, result.server_state.labels)


def test_an_unknown_user_is_refused(result):
    with pytest.raises(InputError, match="user 'nobody' is not in synthetic"):
        result.recommend("nobody")


def test_less_than_one_item_is_refused(result):
    with pytest.raises(InputError, match="k=0 must be at least 1"):
        result.recommend(result.problem.dataset.user_ids[0], k=0)


def test_a_user_beyond_the_limit_is_told_apart():
    method = fedjax_rec.methods.popularity()
    result = fedjax_rec.simulate(method, small(client_limit=5), rounds=1, progress=False)
    with pytest.raises(InputError, match=r"takes no part: dropped by the split .* or beyond"):
        result.recommend(result.problem.dataset.user_ids[20])


def test_silos_score_the_right_user():
    """Users of one client have heads of their own."""
    problem = small(clients=6)
    result = fedjax_rec.simulate(fedjax_rec.methods.pfedrec(), problem, rounds=1, progress=False)
    ids = problem.dataset.user_ids[problem.user_index]
    scores = [tuple(result.recommend(user, k=3)["score"]) for user in ids]
    assert len(set(scores)) == len(scores)
