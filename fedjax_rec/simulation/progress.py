"""One line a round, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from fedjax_rec.data import Problem
from fedjax_rec.simulation.engine import Outcome
from fedjax_rec.units import human_bytes

__all__ = ["Progress"]


class Progress:
    """Prints what a run does, a line a round: loss, validation metric, bytes, speed.

    Lines stay below 100 columns, and their columns stay in place from round to round.

    Args:
      rounds: total rounds of the run.
      metric: the validation metric to show, such as "hr@10/uni99".
      enabled: False prints nothing.
    """

    def __init__(self, rounds: int, metric: str, *, enabled: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not enabled, highlight=False)
        self._rounds = rounds
        self._metric = metric

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, method: str, problem: Problem, devices: str) -> None:
        """What is about to run, and how to read the lines that follow."""
        self.say(
            f"{method} on {problem.dataset.name}: {problem.num_clients:,} clients, "
            f"{problem.num_users:,} users, {problem.num_items:,} items, {problem.split} split, "
            f"protocol {problem.protocol}, on {devices}"
        )
        self.say(f"each round: {self._metric} on validation; bytes a client sends ↑ receives ↓")

    def round(self, round_: int, outcome: Outcome, rows: list[dict[str, Any]]) -> None:
        """The line of one round; ``rows`` are its metric rows, empty if not evaluated."""
        seconds = outcome.seconds
        if seconds.compile > 0.05:
            self.say(f"compiled in {seconds.compile:.1f} s")
        width = len(str(self._rounds))
        name = self._metric.partition("/")[0]
        value = {row["split"]: row[self._metric] for row in rows}.get("val")
        measured = " " * 7 if value is None else f"{100 * value:>5.1f} %"
        speed = outcome.participants / seconds.device if seconds.device > 0 else 0.0
        parts = [
            f"round {round_:>{width}}/{self._rounds}",
            f"loss {outcome.train_loss:{'.4f' if outcome.train_loss < 1000 else '.4g'}}",
            f"{name} {measured}" if rows else " " * (len(name) + 8),
            f"↑ {human_bytes(outcome.bytes.up):>8}  ↓ {human_bytes(outcome.bytes.down):>8}",
            f"{speed:>7,.0f} clients/s",
            f"{seconds.total - seconds.compile:.2f} s",
        ]
        self.say("  ".join(parts))
