"""Tables and figures of standings that nobody has run."""

import math
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedjax_rec.compare.figures import (
    group_scores,
    ndcg_by_user,
    pareto_front,
    scores_and_bytes,
)
from fedjax_rec.compare.standings import GroupScore, Profile, Standings
from fedjax_rec.compare.tables import comparison_tables, rank_shift, significance_words
from fedjax_rec.reports.runs import Run

METRIC = "ndcg@10/uni99"
_POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def standings(protocol="leak-free", clients=(943, 943, 943, 1), **scores):
    """Contestants by their scores, the best first: what they send falls from one to the next."""
    order = sorted(scores, key=lambda label: -scores[label])
    rows, profiles = [], {}
    for place, label in enumerate(order):
        score = scores[label]
        row = {"protocol": protocol, "label": label, "method": label, "seeds": 3, "rounds": 9}
        row |= {"best_round": 7.0, METRIC: score, f"{METRIC} std": 0.01}
        row |= {"hr@10/uni99": 2 * score, "hr@10/uni99 std": math.nan}
        row |= dict.fromkeys(("uplink_bytes", "downlink_bytes"), 100_000.0 / 10**place)
        row |= dict.fromkeys(("uplink_bytes_to_best", "downlink_bytes_to_best"), 7e5 / 10**place)
        if label == "local":
            row |= {name: 0.0 for name in row if "bytes" in name}
        row |= {"seconds_per_round": 0.5, "clients_per_second": 1886.0}
        row |= {"client_state_values": 33, "download_values": 53_824}
        p = math.nan if place == 0 else 0.2 if place == 1 else 1e-9
        row |= {"difference": score - scores[order[0]], "p": p, "p_holm": p}
        rows.append(row)
        config = {
            **{"method": label, "data": {"name": "ml-100k", "clients": clients[place]}},
            **{"run": {"split": "loo", "protocol": protocol}},
        }
        run = Run(Path(label), config, pd.DataFrame(), {}, True)
        users = np.random.default_rng(place).choice([0.0, 0.5, 1.0], 20, p=[0.5, 0.3, 0.2])
        groups = tuple(GroupScore(title, 10, score, 0.02) for title in ("1–5", "6–9"))
        halves = tuple(GroupScore(title, 10, score, 0.02) for title in ("head (1)", "tail (2)"))
        profiles[label] = Profile(run, {0: users}, groups, halves)
    return Standings(protocol, METRIC, (0, 1, 2), pd.DataFrame(rows), profiles)


CLEAN = {"pfedrec": 0.35, "fedmf": 0.3, "local": 0.05}
LEAKY = {"pfedrec": 0.4, "fedmf": 0.35, "local": 0.8}


def shown(tables, width):
    text = StringIO()
    for table in tables:
        Console(width=width, file=text).print(table)
    return text.getvalue()


@given(_POINTS)
def test_the_front_is_what_nothing_beats(points):
    costs, scores = zip(*points, strict=True)
    front = pareto_front(costs, scores)

    def beaten(index):
        cost, score = points[index]
        return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)

    assert {points[i] for i in front} == {p for i, p in enumerate(points) if not beaten(i)}
    assert [costs[i] for i in front] == sorted({costs[i] for i in front})


def test_the_leak_is_told_by_places():
    frame = rank_shift([standings(**CLEAN), standings("published", **LEAKY)])
    assert frame["method"].tolist() == ["pfedrec", "fedmf", "local"]
    assert frame["leak-free"].tolist() == ["35.0 (#1)", "30.0 (#2)", "5.0 (#3)"]
    assert frame["published"].tolist() == ["40.0 (#2)", "35.0 (#3)", "80.0 (#1)"]
    assert frame["shift"].tolist() == ["−1", "−1", "+2"]


def test_one_protocol_has_no_shift_and_what_is_missing_under_the_other_is_left_out():
    assert rank_shift([standings(**CLEAN)]) is None
    frame = rank_shift([standings(**CLEAN), standings("published", local=0.8, pfedrec=0.4)])
    assert frame["method"].tolist() == ["pfedrec", "local"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_terminal(width):
    text = shown(comparison_tables([standings(**CLEAN), standings("published", **LEAKY)]), width)
    assert max(map(len, text.splitlines())) <= width
    lines = [line.split() for line in text.splitlines()]
    (first,) = (line for line in lines if line[:2] == ["pfedrec", "70.0"])
    assert first == ["pfedrec", "70.0", "35.0", "100.0", "kB", "500", "ms", "33", "best"]
    (second,) = (line for line in lines if line[:2] == ["fedmf", "60.0"])
    assert second[-1] == "0.200"
    assert lines[lines.index(second) + 1][-1] == "ns"
    assert "<0.001" in text


def test_the_headline_names_who_cannot_be_told_from_the_best():
    lead, alike = significance_words(standings(**CLEAN))
    assert "pfedrec leads with NDCG@10 (uni99) 35.0" in lead
    assert alike == "Not significantly behind it: fedmf."


def test_the_front_leaves_out_what_is_not_federated():
    clean = standings(central=0.5, pfedrec=0.35, fedmf=0.3, local=0.05, clients=(1, 943, 943, 943))
    figure = scores_and_bytes(clean)
    left, right = figure.axes
    assert left.get_xlabel() == "bytes of a client, a round"
    front = left.lines[0]
    assert 100 * 0.5 not in front.get_ydata()
    assert front.get_ydata()[0] == pytest.approx(5)  # local-only, which moves nothing
    assert front.get_ydata()[-1] == pytest.approx(35)
    (reference,) = (line for line in left.lines if set(line.get_ydata()) == {50.0})
    assert list(reference.get_xdata()) == [0, 1]  # across
    assert left.get_xticklabels()[0].get_text() == "0"
    assert len(right.containers) == 3


def test_users_beyond_a_value_are_counted():
    clean = standings(**CLEAN)
    figure = ndcg_by_user(clean)
    for profile, line in zip(clean.profiles.values(), figure.axes[0].lines, strict=True):
        values = profile.per_user()
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        for value in (0.0, 0.25, 0.5, 0.75):
            share = y[np.flatnonzero(x <= value)[-1]]
            assert share == pytest.approx(100 * np.mean(values > value))


@pytest.mark.parametrize("groups", ["by_activity", "by_popularity"])
def test_groups_have_a_place_each_and_their_size(groups):
    figure = group_scores(standings(**CLEAN), groups)
    (axes,) = figure.axes
    labels = [label.get_text().splitlines() for label in axes.get_xticklabels()]
    assert len(labels) == 2
    assert labels[0][-1].startswith("10 ")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(CLEAN)
