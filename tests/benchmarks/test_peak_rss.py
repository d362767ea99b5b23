"""Peak memory of another program, measured apart from the memory of the one that asks."""

import sys

import peak_rss
import pytest

MIB = 2**20


def program(mebibytes: int, then: str = "") -> list[str]:
    return [sys.executable, "-c", f"held = bytearray({mebibytes} * 2**20); {then}"]


def test_the_peak_is_the_programs_own_and_not_its_parents():
    # This process (pytest with JAX and pandas loaded) is far larger than the small program.
    small = peak_rss.measure(program(0)).peak_rss_bytes
    large = peak_rss.measure(program(300)).peak_rss_bytes
    assert small < 60 * MIB
    assert 290 * MIB < large - small < 330 * MIB


def test_memory_given_back_before_the_end_counts():
    assert peak_rss.measure(program(300, "del held")).peak_rss_bytes > 290 * MIB


def test_the_programs_own_output_does_not_disturb_the_measurement():
    assert peak_rss.measure(program(1, f"print({peak_rss.MARK!r} + 'no')")).status == 0


def test_a_failed_program_is_no_measurement():
    with pytest.raises(RuntimeError, match="status 3"):
        peak_rss.measure(program(1, "raise SystemExit(3)"))


def test_a_program_that_does_not_exist():
    with pytest.raises(RuntimeError, match="cannot start no-such-program"):
        peak_rss.measure(["no-such-program"])
