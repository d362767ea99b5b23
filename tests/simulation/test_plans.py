"""One program in many shapes: each method trains alike in a loop, in groups, and on two devices."""

import pytest

from fedjax_rec import methods
from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.runs import USERS, assert_same_run, make_engine, run_engine


@pytest.fixture(scope="module", params=methods.REGISTRY)
def one_by_one(request):
    """Every client alone on one device: what all plans are held to."""
    method = tiny(request.param)
    return method, run_engine(make_engine(method, small(USERS), chunk=1))


def test_in_groups_on_two_devices_is_one_by_one(one_by_one, two_devices) -> None:
    """Both at once, for every method: what differs in one of them differs here."""
    method, expected = one_by_one
    assert_same_run(run_engine(make_engine(method, small(USERS), 2, chunk=4)), expected)


@pytest.mark.parametrize("one_by_one", ["cgfedrec", "gpfedrec", "rqfedrec"], indirect=True)
def test_the_loop_without_jit_is_one_by_one(one_by_one) -> None:
    """The first round, on few clients: Python runs every line, for each batch of each client."""
    method, _ = one_by_one
    looped, jitted = (
        run_engine(make_engine(method, small(USERS), cohort=2, **plan), rounds=1)
        for plan in ({"debug": True}, {"chunk": 1})
    )
    assert_same_run(looped, jitted)
