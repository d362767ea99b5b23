"""Other simulators' environments: one virtual environment each, with pinned packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["PINS", "InstallError", "install", "installed", "last_line"]

# The one place with versions. torch 2.13.0 also takes a wheel for the CPU alone (2.13.0+cpu) where
# pip is told of one, which saves gigabytes. FedJAX runs with the JAX that this project runs with.
PINS: dict[str, tuple[str, ...]] = {
    "flower": ("flwr[simulation]==1.41.0", "ray==2.55.1", "torch==2.13.0", "numpy==2.4.6"),
    "fedjax": (
        "fedjax==0.0.17",
        "jax==0.10.2",
        "jaxlib==0.10.2",
        "dm-haiku==0.0.17",
        "optax==0.2.8",
        "numpy==2.4.6",
    ),
    "pfl": ("pfl==0.6.0", "torch==2.13.0", "numpy==2.4.6"),
}
STAMP = "installed.txt"  # the pins, written last: an installation that broke off has none


class InstallError(Exception):
    """An environment that could not be made; its text is the installer's last line."""


def installed(folder: Path, pins: tuple[str, ...]) -> bool:
    """Whether an environment with exactly these pins is there, complete."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").split() == list(pins)


def install(folder: Path, pins: tuple[str, ...], *, timeout: float = 3600) -> Path:
    """Makes the environment, or takes the one that is there.

    Args:
      folder: of the environment; made anew where its packages are not these.
      pins: requirements for pip.
      timeout: seconds that pip may take.

    Returns:
      The environment's Python.

    Raises:
      InstallError: where the environment or its packages cannot be had. Nothing is left behind.
    """
    python = folder / "bin" / "python"
    if installed(folder, pins):
        return python
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], timeout)
        _run([str(python), "-m", "pip", "install", "--quiet", *pins], timeout)
    except InstallError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / STAMP).write_text("\n".join(pins) + "\n", encoding="utf-8")
    return python


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _run(command: list[str], timeout: float) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise InstallError(f"not done after {timeout:,.0f} s: {' '.join(command[1:4])}") from None
    if ended.returncode:
        # pip's errors; its notes after them (such as a newer pip) are not the reason.
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        raise InstallError(last_line("\n".join(errors) or ended.stderr or ended.stdout))
