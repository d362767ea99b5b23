"""What a run's artifacts become: terminal tables, figures and the self-contained HTML report.

`html.write_report` is imported from its own module: with scikit-learn and matplotlib it takes
seconds, which a run without a report must not pay for its table.
"""

from fedjax_rec.reports.runs import Run, load_run
from fedjax_rec.reports.tables import comparison_frame, comparison_table

__all__ = ["load_run", "Run", "comparison_table", "comparison_frame"]
