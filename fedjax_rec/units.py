"""Numbers as people read them: bytes, seconds, counts, percentages."""

from __future__ import annotations

import math

__all__ = ["human_bytes", "human_seconds", "human_count", "percent"]

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def human_bytes(count: float | None) -> str:
    """Bytes in decimal units (1 kB = 1000 B, as networks count), four digits at most.

    Args:
      count: bytes, may be fractional (labels travel in bits); None or NaN where unknown.

    Returns:
      The text, ``"–"`` where unknown.

    Raises:
      ValueError: ``count`` is negative.

    Example:
      >>> human_bytes(215_296), human_bytes(1261.5), human_bytes(0), human_bytes(999_960)
      ('215.3 kB', '1.3 kB', '0 B', '1.0 MB')
    """
    if count is None or math.isnan(count):
        return "–"
    if count < 0:
        raise ValueError(f"a number of bytes cannot be negative: {count}")
    value, unit = float(count), 0
    # The bound is where rounding to the shown precision would print 1000 of the smaller unit.
    while value >= (999.5 if unit == 0 else 999.95) and unit < len(_BYTE_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_BYTE_UNITS[unit]}"


def human_seconds(seconds: float | None) -> str:
    """A duration with the precision that its size deserves; ``"–"`` where unknown.

    Example:
      >>> human_seconds(0.0421), human_seconds(31.24), human_seconds(754), human_seconds(7260)
      ('42 ms', '31.2 s', '12 min 34 s', '2 h 1 min')
    """
    if seconds is None or math.isnan(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def human_count(count: float | None) -> str:
    """A count or a rate with thousands separators; ``"–"`` where unknown.

    Example:
      >>> human_count(12345.6), human_count(7.25), human_count(None)
      ('12,346', '7.2', '–')
    """
    if count is None or math.isnan(count):
        return "–"
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.1f}"


def percent(fraction: float | None, *, sign: bool = True) -> str:
    """A fraction in percent with one decimal; ``"–"`` where unknown.

    Example:
      >>> percent(0.6301), percent(0.6301, sign=False)
      ('63.0\xa0%', '63.0')
    """
    if fraction is None or math.isnan(fraction):
        return "–"
    # No-break space: a figure and its unit stay on one line.
    return f"{100 * fraction:.1f}" + ("\N{NO-BREAK SPACE}%" if sign else "")
