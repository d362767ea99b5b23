"""The plan of a run that is for debugging: Python runs every line. Other plans: `test_contract`."""

import pytest

from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.runs import USERS, assert_same_run, make_engine, run_engine


@pytest.mark.parametrize("name", ["cgfedrec", "gpfedrec", "rqfedrec"])
def test_the_loop_without_jit_is_one_by_one(name) -> None:
    """The first round, on few clients: each batch of each client takes its time."""
    looped, jitted = (
        run_engine(make_engine(tiny(name), small(USERS), cohort=2, **plan), rounds=1)
        for plan in ({"debug": True}, {"chunk": 1})
    )
    assert_same_run(looped, jitted)
