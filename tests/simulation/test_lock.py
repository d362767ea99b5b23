"""The lock of a folder: one holder, and none left behind by one that is killed."""

import os
import signal
import subprocess
import sys

import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.lock import hold

HOLDER = """
import sys
from pathlib import Path
from fedjax_rec.simulation.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    with hold(tmp_path):
        with pytest.raises(InputError) as error, hold(tmp_path):
            pass
        assert f"{tmp_path} is in use by process {os.getpid()} on " in str(error.value)
        assert "\n" not in str(error.value)
    with hold(tmp_path):
        pass


def test_an_error_inside_releases_it(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        _ = 1 / 0
    with hold(tmp_path):
        pass


def test_the_system_releases_what_a_killed_process_held(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on "), hold(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="name another --out"), hold(tmp_path / "none"):
        pass
