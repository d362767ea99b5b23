"""The public functions that tie rooms together: a simulation whose folder ends with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedjax_rec.data import Dataset, Problem
from fedjax_rec.methods import Method
from fedjax_rec.simulation import Result
from fedjax_rec.simulation import simulate as _simulate
from fedjax_rec.simulation.distribution import leads

__all__ = ["simulate"]


def simulate(
    method: Method,
    data: Dataset | Problem,
    *,
    out: str | Path | None = None,
    report: bool = True,
    **options: Any,
) -> Result:
    result = _simulate(method, data, out=out, **options)
    if out is not None and report and leads():
        # Plots and tables take a second to import, which a sweep without reports need not pay.
        from fedjax_rec.reports.html import write_report

        write_report([out], Path(out) / "report.html")
    return result


simulate.__doc__ = (_simulate.__doc__ or "").replace(
    "      resume: go on",
    "      report: write ``report.html`` into ``out`` at the end.\n      resume: go on",
)
