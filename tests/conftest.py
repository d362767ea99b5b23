"""What tests of several rooms share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real datasets; skips the test, with the reason, where there is none."""
    root = os.environ.get("FEDJAX_REC_DATA")
    if not root:
        pytest.skip("FEDJAX_REC_DATA is not set: no real data")
    path = Path(root).resolve()
    if not path.is_dir():
        pytest.skip(f"FEDJAX_REC_DATA={root} is no folder: no real data")
    return path
