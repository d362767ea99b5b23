"""What a sweep shows while it runs: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedjax_rec.sweep.manifest import Entry, Manifest
from fedjax_rec.sweep.watch import Progress, Watch
from fedjax_rec.units import human_seconds

__all__ = ["Display"]

_STYLES = {
    "waiting": "dim",
    "running": "bold",
    "finished": "green",
    "failed": "red",
    "killed": "yellow",
}
# Of a long sweep the live table shows what happens now; the rest is counted below it.
_MOST_ROWS = 20
_ORDER = ("running", "failed", "killed", "finished", "waiting")


@dataclass
class _Shown:
    watch: Watch
    began: float | None = None
    seconds: float | None = None


class Display:
    """Shows how the trials get on, on the standard error.

    Args:
      manifest: where their states are.
      console: where to; None: the standard error.
    """

    def __init__(self, manifest: Manifest, console: Console | None = None) -> None:
        self._manifest = manifest
        self._console = console or Console(stderr=True, highlight=False)
        self._shown = {id_: _Shown(Watch(e.folder)) for id_, e in manifest.entries.items()}
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, markup=False, soft_wrap=True)

    def started(self, id_: str) -> None:
        """A trial has been started."""
        shown, entry = self._shown[id_], self._manifest.entries[id_]
        shown.began = time.monotonic()
        if not self._live:
            reached = shown.watch.progress().round
            resumed = f", whose metrics reach round {reached}" if reached else ""
            self.say(f"{self._count()} {entry.folder.name}: started{resumed}")

    def ended(self, id_: str) -> None:
        """A trial has ended; the manifest says how."""
        shown, entry = self._shown[id_], self._manifest.entries[id_]
        shown.seconds = time.monotonic() - (shown.began or time.monotonic())
        if not self._live:
            told = ", ".join(self._cells(id_, entry)[1:])
            error = f": {entry.error}" if entry.error else ""
            self.say(f"{self._count()} {entry.folder.name}: {told}{error}")

    def refresh(self) -> None:
        """Brings the live table up to date."""
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _count(self) -> str:
        entries = self._manifest.entries.values()
        done = sum(entry.status not in ("waiting", "running") for entry in entries)
        return f"[{done:>{len(str(len(entries)))}}/{len(entries)}]"

    def _table(self) -> Table:
        entries = list(self._manifest.entries.items())
        ranked = sorted(entries, key=lambda pair: _ORDER.index(pair[1].status))[:_MOST_ROWS]
        kept = {id_ for id_, _ in ranked}
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, caption_justify="left")
        for header in ("trial", "status", "round", "best on validation", "seconds"):
            right = header in ("round", "seconds")
            table.add_column(header, justify="right" if right else "left", overflow="fold")
        for id_, entry in entries:
            if id_ in kept:
                cells = self._cells(id_, entry)
                table.add_row(*(Text(cell, style=_STYLES[entry.status]) for cell in cells))
        table.caption = Text(_counts([entry for _, entry in entries]))
        return table

    def _cells(self, id_: str, entry: Entry) -> list[str]:
        shown = self._shown[id_]
        seconds = shown.seconds
        if seconds is None and shown.began is not None:
            seconds = time.monotonic() - shown.began
        progress: Progress = shown.watch.progress()
        return [
            entry.trial.label,
            entry.status,
            f"{progress.round}/{entry.trial.rounds}",
            str(progress),
            human_seconds(seconds),
        ]


def _counts(entries: Sequence[Entry]) -> str:
    found = [entry.status for entry in entries]
    parts = [f"{found.count(status)} {status}" for status in _ORDER if status in found]
    return f"{len(found)} trials: {', '.join(parts)}"
