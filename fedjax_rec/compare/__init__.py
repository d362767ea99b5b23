"""Comparisons: methods over seeds under one protocol, with their cost and what is chance in them.

Read in this order: `contestants` (what is compared), `run` (trials, as a sweep's, and what is left
at the end), `user_ranks` (a run's ``ranks.npz``), `significance` (paired tests), `groups` (heavy
and light users, head and tail items), `standings` (who stands where), `tables`, `figures` and
`page` (for people), `files` (for programs).
"""

from fedjax_rec.compare.contestants import Contestant, read_contestants
from fedjax_rec.compare.run import ComparisonResult, run_comparison
from fedjax_rec.compare.standings import Standings
from fedjax_rec.compare.tables import caption, comparison_tables

__all__ = [
    "ComparisonResult",
    "Contestant",
    "Standings",
    "caption",
    "comparison_tables",
    "read_contestants",
    "run_comparison",
]
