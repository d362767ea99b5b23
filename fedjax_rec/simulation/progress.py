"""One line a round, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from fedjax_rec.simulation.engine import Outcome

__all__ = ["Progress"]


class Progress:
    """Prints what a run does, a line a round: loss, validation metric, bytes, speed.

    Args:
      rounds: total rounds of the run.
      metric: name of the validation metric to show.
      enabled: False prints nothing.
    """

    def __init__(self, rounds: int, metric: str, *, enabled: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not enabled, highlight=False)
        self._rounds = rounds
        self._metric = metric

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, markup=False, soft_wrap=True)

    def round(self, round_: int, outcome: Outcome, rows: list[dict[str, Any]]) -> None:
        """The line of one round; ``rows`` are its metric rows, empty if not evaluated."""
        seconds = outcome.seconds
        if seconds.compile > 0.05:
            self.say(f"compiled in {seconds.compile:.1f} s")
        width = len(str(self._rounds))
        parts = [f"round {round_:>{width}}/{self._rounds}", f"loss {outcome.train_loss:.4f}"]
        for row in rows:
            if row["split"] == "val" and row[self._metric] is not None:
                parts.append(f"val {self._metric} {100 * row[self._metric]:.1f} %")
        parts.append(f"up {_size(outcome.bytes.up)}, down {_size(outcome.bytes.down)} a client")
        if seconds.device > 0:
            parts.append(f"{outcome.participants / seconds.device:,.0f} clients/s")
        parts.append(f"{seconds.total - seconds.compile:.2f} s")
        self.say("  ".join(parts))


def _size(count):
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
