"""Plans of a run, as users compile them: they differ in what is fused and vectorized."""

import pytest

from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.runs import USERS, assert_same_run, make_engine, run_engine

pytestmark = [pytest.mark.compiler, pytest.mark.slow]


@pytest.fixture(scope="module", params=["cgfedrec", "fedmf", "gpfedrec"])
def one_by_one(request):
    """Every client alone on one device: what all plans are held to."""
    method = tiny(request.param)
    return method, run_engine(make_engine(method, small(USERS), chunk=1))


@pytest.mark.parametrize("chunk", [7, USERS])
def test_side_by_side_is_one_by_one(one_by_one, chunk) -> None:
    method, expected = one_by_one
    assert_same_run(run_engine(make_engine(method, small(USERS), chunk=chunk)), expected)


def test_sharded_is_one_by_one(one_by_one, two_devices) -> None:
    method, expected = one_by_one
    assert_same_run(run_engine(make_engine(method, small(USERS), 2)), expected)
