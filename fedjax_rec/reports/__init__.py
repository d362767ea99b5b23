"""What a run's artifacts become: terminal tables, figures and the self-contained HTML report."""

from fedjax_rec.reports.html import write_report
from fedjax_rec.reports.runs import Run, load_run
from fedjax_rec.reports.tables import comparison_frame, comparison_table

__all__ = ["write_report", "load_run", "Run", "comparison_table", "comparison_frame"]
