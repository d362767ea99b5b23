"""The examples in the docstrings run as they stand."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    ["item_text", "loading", "partition", "prepare", "readers", "semantics", "synthetic"],
)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"fedjax_rec.data.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
