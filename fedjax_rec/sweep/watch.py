"""How far a trial is, read from the metrics that its run writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedjax_rec.units import percent

__all__ = ["Progress", "Watch"]

_SELECTION = ("hr@10/uni99", "recall@10/full")  # what names the best round: loo, ratio


@dataclass(frozen=True)
class Progress:
    """How far a trial is.

    Attributes:
      round: the last evaluated round; 0 before the first.
      metric: the validation metric that names its best round; "" before the first.
      best: its best value so far, a fraction.
    """

    round: int = 0
    metric: str = ""
    best: float | None = None

    def __str__(self) -> str:
        return f"{self.metric.partition('/')[0]} {percent(self.best)}" if self.metric else "–"


class Watch:
    """Reads a run's ``metrics.jsonl`` again whenever it has changed.

    Args:
      folder: the run's; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        self._seen: tuple[int, int] | None = None
        self._progress = Progress()

    def progress(self) -> Progress:
        """How far it is now."""
        try:
            state = self._file.stat()
            seen = (state.st_size, state.st_mtime_ns)
            if seen != self._seen:
                self._progress = _progress(self._file.read_text(encoding="utf-8"))
                self._seen = seen
        except OSError:
            return Progress()
        return self._progress


def _progress(text: str) -> Progress:
    reached = Progress()
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # the run is writing it
        if row["split"] != "val":
            continue
        metric = next((name for name in _SELECTION if name in row), "")
        values = [v for v in (reached.best, row.get(metric)) if v is not None]
        reached = Progress(row["round"], metric, max(values, default=None))
    return reached
