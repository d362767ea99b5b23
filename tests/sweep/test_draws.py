"""Random values: within their bounds, the same from the same seed, and more leave the first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.sweep.draws import Distribution, draw, read_distribution

NUMBERS = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-6, 1e6)
WHOLE = st.integers(-1000, 1000)


@st.composite
def distributions(draw_from):
    kind = draw_from(st.sampled_from(["uniform", "log_uniform", "int_uniform", "choice"]))
    if kind == "choice":
        words = st.one_of(WHOLE, st.text(max_size=4), st.booleans())
        return Distribution(kind, tuple(draw_from(st.lists(words, min_size=1, max_size=5))))
    bounds = {"uniform": NUMBERS, "log_uniform": POSITIVE, "int_uniform": WHOLE}[kind]
    low, high = sorted(draw_from(st.tuples(bounds, bounds).filter(lambda b: b[0] != b[1])))
    return Distribution(kind, (low, high))


@settings(deadline=None)
@given(distributions(), st.integers(1, 30), st.integers(0, 2**31))
def test_draws_are_within_bounds(distribution, count, seed):
    values = draw(distribution, count, seed=seed, name="lr")
    assert len(values) == count
    if distribution.kind == "choice":
        assert all(value in distribution.values for value in values)
    else:
        low, high = distribution.values
        assert all(low <= value <= high for value in values)
        kind = int if distribution.kind == "int_uniform" else float
        assert all(isinstance(value, kind) for value in values)


@settings(deadline=None)
@given(distributions(), st.integers(1, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_more_draws_leave_the_first_as_they_were(distribution, count, more, seed):
    few = draw(distribution, count, seed=seed, name="lr")
    assert draw(distribution, count + more, seed=seed, name="lr")[:count] == few


def test_options_and_seeds_have_streams_of_their_own():
    uniform = Distribution("uniform", (0.0, 1.0))
    streams = [
        draw(uniform, 5, seed=seed, name=name) for seed, name in ((0, "lr"), (1, "lr"), (0, "l"))
    ]
    assert len({tuple(stream) for stream in streams}) == 3


def test_every_whole_number_and_choice_comes_up():
    assert set(draw(Distribution("int_uniform", (3, 5)), 60, seed=0, name="a")) == {3, 4, 5}
    assert set(draw(Distribution("choice", ("x", "y")), 60, seed=0, name="a")) == {"x", "y"}


def test_log_uniform_spreads_over_decades():
    values = draw(Distribution("log_uniform", (1e-4, 1.0)), 400, seed=0, name="lr")
    assert 60 < sum(value < 1e-3 for value in values) < 140


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (0.1, "lr = 0.1 is no distribution"),
        ({}, "is no distribution"),
        ({"uniform": [0, 1], "choice": [1]}, "is no distribution"),
        ({"lognormal": [0, 1]}, "'lognormal' is unknown (did you mean log_uniform?)"),
        ({"choice": []}, "choice = [] must be a list that is not empty"),
        ({"uniform": [1, 0]}, "uniform = [1, 0] must be two numbers, the smaller first"),
        ({"uniform": [0, "1"]}, "must be two numbers"),
        ({"uniform": [0, True]}, "must be two numbers"),
        ({"uniform": [0.0, float("inf")]}, "must be two numbers"),
        ({"uniform": [0, 1, 2]}, "must be two numbers"),
        ({"log_uniform": [0, 1]}, "the smaller first, both above 0"),
        ({"int_uniform": [0, 1.5]}, "must be two whole numbers"),
    ],
)
def test_what_is_no_distribution(table, told):
    with pytest.raises(InputError) as error:
        read_distribution("lr", table)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
