import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec import units
from fedjax_rec.units import human_bytes, human_seconds


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(units)
    assert result.attempted >= 4
    assert result.failed == 0


@given(st.floats(0, 9e20))
def test_bytes_keep_their_size_and_never_need_five_digits(count: float) -> None:
    number, unit = human_bytes(count).split()
    scale = 1000 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit)
    assert float(number) < 1000
    assert math.isclose(float(number) * scale, count, rel_tol=0.06, abs_tol=0.5)


def test_unknown_is_a_dash_and_negative_is_an_error() -> None:
    assert human_bytes(None) == human_bytes(math.nan) == human_seconds(None) == "–"
    with pytest.raises(ValueError, match="negative"):
        human_bytes(-1)


@given(st.floats(0, 1e6))
def test_seconds_never_show_sixty_of_a_unit(seconds: float) -> None:
    text = human_seconds(seconds)
    assert " 60 s" not in text
    assert "60 min" not in text
    assert not text.startswith("1000 ms")
