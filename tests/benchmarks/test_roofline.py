"""The bound from below: step counts and costs by hand, peaks that mean something."""

import pytest
import roofline
from hypothesis import given
from hypothesis import strategies as st

from .problems import tiny_problem


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    negatives=st.integers(1, 5),
    batch_size=st.integers(1, 40),
    epochs=st.integers(1, 3),
)
def test_local_steps_count_the_batches_that_hold_samples(sizes, negatives, batch_size, epochs):
    problem = tiny_problem([list(range(size)) for size in sizes], num_items=60)
    found = roofline.local_steps(
        problem, negatives=negatives, batch_size=batch_size, local_epochs=epochs
    )
    expected = [epochs * len(range(0, size * (1 + negatives), batch_size)) for size in sizes]
    assert found.tolist() == expected


def test_local_steps_add_up_the_users_of_a_client():
    problem = tiny_problem([[0, 1], [2], [3], [4, 5]], num_items=9, users_per_client=2)
    found = roofline.local_steps(problem, negatives=1, batch_size=2, local_epochs=1)
    assert found.tolist() == [3, 3]


def test_the_cost_of_three_items_by_hand():
    # Three pairs: one exponential and 2d operations each; then a 3 × 3 × d product.
    cost = roofline.contrastive_cost(3, 5)
    assert cost == roofline.Cost(flops=3 * 2 * 5 + 2 * 3 * 3 * 5, exponentials=3)
    assert cost.times(4) == roofline.Cost(flops=480, exponentials=12)


def test_the_times_of_both_kinds_of_work_add():
    peaks = roofline.Peaks(flops=100.0, exponentials=10.0)
    assert peaks.seconds(roofline.Cost(flops=200.0, exponentials=5.0)) == pytest.approx(2.5)


def test_measured_peaks_are_rates_that_a_processor_can_have():
    peaks = roofline.measure_peaks(size=256, repeats=2)
    assert 1e7 < peaks.exponentials < peaks.flops * 10 < 1e18


def test_a_stream_has_a_speed():
    assert 1e6 < roofline.measure_stream(1 << 16, repeats=1) < 1e13
