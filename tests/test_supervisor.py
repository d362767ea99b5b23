"""What a supervisor says of its worker; the pair at work is in simulation/test_distribution.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fedjax_rec import supervisor

FATAL = (
    "F0101 12:00:00.000000 7 client.h:80] Terminating process because the JAX distributed service "
    "detected fatal errors. This most likely indicates that another task died\n"
)
STACK = ["\n", "*** Check failure stack trace: ***\n", "    @  0x7f  absl::Flush()\n"]


def said(*lines: str) -> tuple[str, bool]:
    out = list(supervisor.passed_on(lines))
    return "".join(line for line, _ in out), bool(out) and out[-1][1]


def test_what_a_worker_says_is_passed_on():
    assert said("round 1\n", "a warning\n") == ("round 1\na warning\n", False)
    assert said() == ("", False)


def test_the_last_words_of_xla_become_one_line():
    text, lost = said("round 1\n", FATAL, *STACK)
    assert lost
    assert text == f"round 1\n{supervisor.ERROR}{supervisor.LOST}\n"


def test_nothing_is_added_to_an_error_that_was_told():
    error = f"{supervisor.ERROR}round 3: lost\n"
    assert said(error, FATAL, *STACK) == (error, True)


def test_a_process_that_never_came_is_told_as_such():
    text, lost = said(FATAL, "\n", "RPC: /xla.coordination.CoordinationService/RegisterTask\n")
    assert lost
    assert text == f"{supervisor.ERROR}{supervisor.NOT_JOINED}\n"


# As the command runs it, without the package; the worker runs the Python code that it is given.
LOADED = f"import runpy; supervisor = runpy.run_path({supervisor.__file__!r}); "
RUN = (
    f"import sys; {LOADED}"
    "supervise = supervisor['supervise'];"
    "supervise.__globals__['_WORKER'] = 'import sys; exec(sys.argv[1])';"
    "sys.exit(supervise(sys.argv[1:]))"
)


def supervised(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("print(1); sys.exit(130)", 130, ""),
        (f"sys.stderr.write({FATAL!r}); import os; os.abort()", 2, f"{supervisor.LOST}\n"),
        ("import os; os.kill(os.getpid(), 9)", 137, "the process was killed by signal 9\n"),
    ],
)
def test_the_exit_status_is_the_workers(code, status, error):
    running = supervised(code)
    _, err = running.communicate(timeout=60)
    assert running.returncode == status
    assert err == (supervisor.ERROR + error if error else "")


def test_a_signal_is_passed_on_once():
    code = (
        "import signal, time; count = []; "
        "signal.signal(signal.SIGINT, lambda *_: count.append(1)); "
        "print('ready', flush=True); time.sleep(1); time.sleep(0.2); print(len(count))"
    )
    running = supervised(code)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert out == "1\n"
    assert running.returncode == 0


def test_a_worker_ends_with_its_supervisor():
    code = (
        f"import os, time; {LOADED}"
        "supervisor['end_with_supervisor'](); print(os.getpid(), flush=True); time.sleep(600)"
    )
    running = supervised(code)
    assert running.stdout is not None
    worker = int(running.stdout.readline())
    running.kill()
    # The worker holds the other ends of the streams: they end when it does.
    running.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{worker}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.05)
    pytest.fail("the worker lives on")
