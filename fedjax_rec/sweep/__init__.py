"""Sweeps: many runs of one specification, each a process and a folder, that survive being killed.

Read in this order: `spec` (what a file says), `draws` (random values), `trials` (which runs it
means), `manifest` (what has become of them), `process` and `worker` (one trial's process),
`executors` and `ray_executor` (where it runs), `run` (the loop), `watch` and `display` (what is
shown meanwhile), `results` and `figure` (what is left at the end).
"""

from fedjax_rec.sweep.run import SweepResult, run_sweep
from fedjax_rec.sweep.trials import ParsedRun, ParseRun

__all__ = ["ParsedRun", "ParseRun", "SweepResult", "run_sweep"]
