"""Runs one simulator's worker within limits of time and memory, and reads what it measured."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from peer_venvs import last_line
from peer_workers.work import MARK

__all__ = ["Measured", "WorkerError", "parse", "run_worker"]

SAMPLING_SECONDS = 0.25


class WorkerError(Exception):
    """A worker that gave no measurement; one line on why."""


@dataclass(frozen=True)
class Measured:
    """One worker's measurements.

    Attributes:
      round_seconds: wall time of each counted round.
      sampling_seconds: the part of each that made samples and batches; empty if not told apart.
      peak_rss_bytes: largest resident memory of the worker and all its children.
    """

    round_seconds: tuple[float, ...]
    sampling_seconds: tuple[float, ...]
    peak_rss_bytes: int


def run_worker(
    command: Sequence[str],
    log: Path,
    *,
    seconds: float,
    memory_bytes: float,
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """Runs a worker to its end.

    Args:
      command: program and arguments.
      log: file for all its output, kept.
      seconds: it is ended after so long.
      memory_bytes: it is ended when it and its children take more.
      environment: added to this process's.

    Raises:
      WorkerError: it failed, broke a limit, or said nothing that can be read.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peak, deadline = 0, time.monotonic() + seconds
    everyone: set[psutil.Process] = set()
    with log.open("w", encoding="utf-8") as output:
        worker = psutil.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        try:
            while worker.poll() is None:
                family = _family(worker)
                everyone.update(family)
                peak = max(peak, _resident(family))
                if peak > memory_bytes:
                    raise WorkerError(f"out of memory: over {memory_bytes / 1e9:,.1f} GB")
                if time.monotonic() > deadline:
                    raise WorkerError(f"out of time: over {seconds:,.0f} s")
                time.sleep(SAMPLING_SECONDS)
        finally:
            _end(everyone)
    text = log.read_text(encoding="utf-8", errors="replace")
    if worker.returncode:
        raise WorkerError(f"ended with status {worker.returncode}: {last_line(text)}")
    measured = parse(text)
    # Between two samples the memory may have been higher; the worker knows its own peak.
    highest = max(peak, measured.peak_rss_bytes)
    return Measured(measured.round_seconds, measured.sampling_seconds, highest)


def parse(text: str) -> Measured:
    """Reads the worker's line out of its whole output.

    Raises:
      WorkerError: no such line, or one that is not a measurement.
    """
    found = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    if len(found) != 1:
        raise WorkerError(f"{len(found)} lines start with {MARK!r}, not one: {last_line(text)}")
    try:
        line = json.loads(found[0])
        measured = Measured(
            tuple(float(x) for x in line["round_seconds"]),
            tuple(float(x) for x in line["sampling_seconds"]),
            int(line["peak_rss_bytes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WorkerError(f"cannot read {found[0]!r}: {error}") from None
    times = measured.round_seconds
    if not times or not all(math.isfinite(x) and x > 0 for x in times):
        raise WorkerError(f"round_seconds {list(times)} are no measurement")
    if len(measured.sampling_seconds) not in (0, len(times)):
        raise WorkerError(f"{len(measured.sampling_seconds)} sampling_seconds, {len(times)} rounds")
    return measured


def _family(worker: psutil.Process) -> list[psutil.Process]:
    try:
        return [worker, *worker.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(family: Iterable[psutil.Process]) -> int:
    """Resident bytes of a family of processes.

    What they share (libraries, Ray's object store) is counted once, as the largest share of one of
    them: the kernel's exact figure takes a walk through all pages, which would disturb the timing.
    """
    private, shared = 0, 0
    for process in family:
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue  # it has just ended
        part = getattr(memory, "shared", 0)  # Linux alone tells
        private += memory.rss - part
        shared = max(shared, part)
    return private + shared


def _end(everyone: Iterable[psutil.Process]) -> None:
    """Ends what is left of the worker and of what it started; psutil spares reused ids."""
    left = [process for process in everyone if process.is_running()]
    for process in left:
        try:
            process.terminate()
        except psutil.Error:
            continue
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(stubborn, timeout=5)
