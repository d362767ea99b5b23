"""``sweep.json``: the specification on record, and what has become of every trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.folder import write_whole
from fedjax_rec.sweep.trials import Trial

__all__ = ["Entry", "Manifest", "Status", "is_finished"]

#: waiting: to be run, from its checkpoint where it has one. killed: ended from outside, and run
#: again by the next call. failed: ended by an error of its own; run again only when asked to.
Status: TypeAlias = Literal["waiting", "running", "finished", "failed", "killed"]

_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One trial in the manifest.

    Attributes:
      trial: the trial.
      folder: of its run, ``OUT/trials/NAME``; its name may be older than the specification.
      status: what has become of it.
      error: the last line of what it said, where it failed.
    """

    trial: Trial
    folder: Path
    status: Status = "waiting"
    error: str = ""

    @property
    def log(self) -> Path:
        """What its process says, of all its sittings."""
        return self.folder.parents[1] / "logs" / f"{self.folder.name}.log"


class Manifest:
    """The trials of a sweep's folder, kept on disk with every change.

    What counts as finished is decided by the runs' own ``summary.json``, not by what is on record:
    a sweep that was killed may not have seen its trials end.

    Args:
      out: the sweep's folder; it exists, and is held by this process.
      trials: those of the specification.
      spec_text: the specification's text.
      retry_failed: whether those that failed before are to be run again.
      name: of the file.

    Raises:
      InputError: the folder is no sweep's, the manifest is broken, or a trial already has more
        rounds than it is to have.
    """

    def __init__(
        self,
        out: Path,
        trials: Sequence[Trial],
        *,
        spec_text: str,
        retry_failed: bool,
        name: str = "sweep.json",
    ) -> None:
        self.path = out / name
        self._spec_text = spec_text
        saved = self._read()
        folders = {_id(path): path for path in sorted((out / "trials").glob("*_*"))}
        self.entries: dict[str, Entry] = {}
        for trial in trials:
            folder = folders.get(trial.id, out / "trials" / trial.name)
            before = saved.pop(trial.id, {})
            status: Status = "waiting"
            if is_finished(folder, trial):
                status = "finished"
            elif before.get("status") == "failed" and not retry_failed:
                status = "failed"
            error = str(before.get("error", "")) if status == "failed" else ""
            # A trial that failed at once left no folder, but perhaps a log.
            if trial.id not in folders and before:
                folder = folder.with_name(str(before["name"]))
            self.entries[trial.id] = Entry(trial, folder, status, error)
        self._left_out = saved

    @property
    def left_out(self) -> list[str]:
        """Names of trials that an earlier specification had and this one has not."""
        return [str(entry["name"]) for entry in self._left_out.values()]

    def set(self, id_: str, status: Status, error: str = "") -> None:
        """Notes what has become of a trial."""
        self.entries[id_] = replace(self.entries[id_], status=status, error=error)
        self.write()

    def write(self) -> None:
        """Writes the file, as a whole.

        Raises:
          InputError: it cannot be written.
        """
        content = {
            "format": _FORMAT,
            "spec": self._spec_text,
            "trials": [_record(entry) for entry in self.entries.values()],
            "left_out": list(self._left_out.values()),
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        try:
            write_whole(self.path, lambda file: file.write(text))
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}; mend that, and run the same again"
            ) from error

    def _read(self) -> dict[str, dict[str, Any]]:
        """Trials on record by their id."""
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, where {_FORMAT} is known here")
            found = {entry["id"]: entry for entry in [*content["trials"], *content["left_out"]]}
            for entry in found.values():
                if entry["status"] not in get_args(Status) or not isinstance(entry["name"], str):
                    raise ValueError(f"trial {entry['id']} has no known status, or no name")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is no manifest of trials ({error}): delete it, and finished trials "
                "are found by their folders; or name another --out"
            ) from None
        return found


def is_finished(folder: Path, trial: Trial) -> bool:
    """Whether a trial's run has ended with all its rounds.

    Raises:
      InputError: it has more rounds than the trial is to have.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        rounds = int(summary["rounds"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not there, or half of one: the run goes on from its checkpoint
    if rounds > trial.rounds:
        raise InputError(
            f"{folder} has {rounds} rounds already: set rounds = {rounds} or more, or name "
            "another --out"
        )
    return rounds == trial.rounds


def _id(folder: Path) -> str:
    return folder.name.rpartition("_")[2]


def _record(entry: Entry) -> Mapping[str, Any]:
    trial = asdict(entry.trial)
    kept = {name: trial[name] for name in ("id", "method", "axes", "arguments", "rounds")}
    return {"name": entry.folder.name, **kept, "status": entry.status, "error": entry.error}
