"""A trial's process, run to its end in the process of a Ray task."""

import os
import signal
import threading

import pytest

from fedjax_rec.sweep.process import Job, run_to_end


def test_an_interruption_is_noticed_where_the_shell_had_it_ignored(tmp_path):
    """As it is for what was started in a shell's background, Ray's own cluster too."""
    run = ("run", "popularity", "--data-options", "users=24", "items=40", "interactions_per_user=8")
    arguments = (*run, "--rounds", "100000", "--no-report", "--out", str(tmp_path / "run"))
    job = Job("one", arguments, str(tmp_path / "run"), str(tmp_path / "log"), str(tmp_path))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(job, job.environment())
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
