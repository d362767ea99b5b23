"""What tests of the losses share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_them(optimized: None) -> None:
    """These are the formulas that hold after the compiler has reordered them."""
