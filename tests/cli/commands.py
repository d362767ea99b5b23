"""The command as tests run it: installed, as a process, or in this one; and what a run wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedjax_rec.cli import main

__all__ = [
    "COMMAND",
    "TINY",
    "error_line",
    "here",
    "poll",
    "process",
    "refused",
    "rows",
    "start",
    "summary",
    "timeless",
]

COMMAND = Path(sys.executable).with_name("fedjax-rec")
TINY = ("--data-options", "users=24", "items=40", "interactions_per_user=8")


def start(*arguments: Any, command: Sequence[str] = (str(COMMAND),)) -> subprocess.Popen[str]:
    """The installed command, started; its streams are pipes."""
    words = [*command, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def process(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """The installed command, run to its end."""
    running = start(*arguments)
    out, err = running.communicate(timeout=300)
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def here(*arguments: Any) -> None:
    """The same command in this process, which saves starting one; it must succeed."""
    main([str(word) for word in arguments])


def refused(capfd: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line by which the command, in this process, refuses its arguments."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        here(*arguments)
    out, err = capfd.readouterr()
    assert end.value.code == 2
    return error_line(out, err)


def error_line(out: str, err: str) -> str:
    """The error, having checked that it is one line and all that was said."""
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert err.startswith("fedjax-rec: error: ")
    return err.removeprefix("fedjax-rec: error: ").rstrip("\n")


def rows(folder: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl``, parsed, without the wall times."""
    text = (folder / "metrics.jsonl").read_text()
    return [timeless(json.loads(line)) for line in text.splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` without what depends on the machine."""
    content = timeless(json.loads((folder / "summary.json").read_text()))
    return {k: v for k, v in content.items() if k not in ("clients_per_second", "peak_rss_bytes")}


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its ``*seconds``."""
    return {key: value for key, value in row.items() if not key.endswith("seconds")}


def poll(running: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Waits until a condition holds while a process runs; fails if the process ends before."""
    deadline = time.monotonic() + 300
    while not condition():
        if running.poll() is not None:
            _, err = running.communicate()
            pytest.fail(f"ended with {running.returncode} before the moment: {err[-2000:]}")
        if time.monotonic() > deadline:
            os.kill(running.pid, signal.SIGKILL)
            pytest.fail("the moment never came")
        time.sleep(0.002)
