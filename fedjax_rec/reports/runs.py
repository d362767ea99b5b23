"""A run folder, read back: its configuration, its history and what it came to."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedjax_rec.errors import InputError

__all__ = ["Run", "ItemEmbeddings", "load_run", "display_names"]

_SELECTION = {"loo": "hr@10/uni99", "ratio": "recall@10/full"}
_PROTOCOLS = ("leak-free", "published")
# Of the server's item groups; the figure of the communities draws them.
_GROUP_KEYS = ("communities", "modularity", "nmi")
# Summed over the evaluated rounds, these give the totals of an unfinished run.
_SECONDS = {
    "seconds": "wall_seconds",
    "compile_seconds": "compile_seconds",
    "device_seconds": "device_seconds",
    "host_seconds": "host_seconds",
    "eval_seconds": "eval_seconds",
}


@dataclass(frozen=True, eq=False)
class ItemEmbeddings:
    """The server's view of the items at the end of a run (``embeddings.npz``).

    Attributes:
      vectors: [m, d] float32.
      labels: [m] int32, the last round's clusters, or None where the method has none.
      item_id: [m] str, the dataset's own ids, or None.
      title: [m] str ("" where unknown), or None.
      truth: [m] int32, the planted clusters of a synthetic dataset, or None.
    """

    vectors: np.ndarray
    labels: np.ndarray | None = None
    item_id: np.ndarray | None = None
    title: np.ndarray | None = None
    truth: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its artifacts tell it.

    Attributes:
      path: the run folder.
      config: ``config.json``: method, label, method_options, data, run, versions, device, ...
      history: ``metrics.jsonl``, one row per evaluated round and split, columns named as its keys;
        a key that some rows lack is NaN (None for lists) there.
      summary: ``summary.json``; for an unfinished run the part of it that the history tells.
      finished: whether the run wrote its summary.
      embeddings: ``embeddings.npz`` where the run left one.
      notes: what a reader of the report should know about how this folder was read.
    """

    path: Path
    config: dict[str, Any]
    history: pd.DataFrame
    summary: dict[str, Any]
    finished: bool
    embeddings: ItemEmbeddings | None = None
    notes: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        return str(self.config["method"])

    @property
    def label(self) -> str:
        """The name to show; the method's where the run was given none."""
        return str(self.config.get("label") or self.method)

    @property
    def dataset(self) -> str:
        return str(self.config.get("data", {}).get("name", "unnamed data"))

    @property
    def protocol(self) -> str:
        """``"leak-free"`` or ``"published"``."""
        return str(self.config["run"]["protocol"])

    @property
    def split(self) -> str:
        """``"loo"`` or ``"ratio"``."""
        return str(self.config["run"]["split"])

    @property
    def evaluate_at(self) -> str:
        """``"download"`` or ``"trained"``."""
        return str(self.config["run"].get("evaluate_at", "download"))

    @property
    def users(self) -> int | None:
        """Users that are scored, None where the run does not say."""
        users = self.config.get("data", {}).get("users")
        return None if users is None else int(users)

    @property
    def rounds_planned(self) -> int:
        return int(self.config["run"].get("rounds", self.rounds_done))

    @property
    def rounds_done(self) -> int:
        """The last evaluated round."""
        return int(self.history["round"].max())

    @property
    def selection(self) -> str:
        """The validation metric that chose the best round."""
        return str(self.summary["selection"])

    @property
    def best_round(self) -> int:
        return int(self.summary["best_round"])

    @property
    def test(self) -> dict[str, float]:
        """Test metrics at the best round, as fractions."""
        return dict(self.summary["test"])

    @property
    def test_rows(self) -> pd.DataFrame:
        """The history of the test split, one row per evaluated round, ascending."""
        return self.history[self.history["split"] == "test"].sort_values("round")

    @property
    def validation_rows(self) -> pd.DataFrame:
        """The history of the validation split, one row per evaluated round, ascending."""
        return self.history[self.history["split"] == "val"].sort_values("round")

    def total(self, key: str) -> float | None:
        """A number of the summary (``"wall_seconds"``, ...), None where the run has none."""
        value = self.summary.get(key)
        return None if value is None else float(value)

    def per_client_bytes(self, direction: str) -> float | None:
        """Bytes that a participating client sends or receives in a typical round.

        The median over evaluated rounds, since the first round may differ (CGFedRec has no
        labels to send before its first clustering).

        Args:
          direction: ``"uplink"`` or ``"downlink"``.
        """
        column = f"{direction}_bytes"
        if column not in self.history:
            return None
        known = self.test_rows[column].dropna()
        return None if known.empty else float(known.median())


def load_run(directory: str | Path) -> Run:
    """Reads a run folder, finished or interrupted.

    A folder without ``summary.json`` loads as unfinished: its best round is computed from the
    metrics by the engine's rule (best validation metric, the earliest round wins a tie). There,
    a last line that the interruption cut off is left out, and ``notes`` says so.

    Args:
      directory: what ``fedjax-rec run --out`` wrote.

    Returns:
      The run.

    Raises:
      InputError: not a run folder, nothing evaluated yet, or a broken file (names file and line).

    Example:
      run = load_run("runs/cgfedrec")
      print(run.label, run.best_round, run.test["hr@10/uni99"])
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a folder that `fedjax-rec run --out` wrote")
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: not a run folder (it has no config.json); "
            "give a folder that `fedjax-rec run --out` wrote"
        )
    config = _read_object(path / "config.json")
    _check_config(config, path / "config.json")
    finished = (path / "summary.json").is_file()
    history, notes = _read_history(path / "metrics.jsonl", torn_tail_allowed=not finished)
    if finished:
        summary = _read_object(path / "summary.json")
        _check_summary(summary, path / "summary.json")
    else:
        summary = _summarize(config, history, path / "metrics.jsonl")
        notes = (*notes, "unfinished: no summary.json, so totals are those of the metrics so far")
    return Run(path, config, history, summary, finished, _read_embeddings(path), notes)


def display_names(runs: Sequence[Run]) -> list[str]:
    """The runs' labels, made distinct by what sets equal ones apart.

    Tried in turn: protocol, dataset, point of evaluation, seed, folder name, position.

    Example:
      two runs of local under two protocols: ["local · leak-free", "local · published"]
    """
    distinctions: list[Callable[[Run], str]] = [
        lambda run: run.protocol,
        lambda run: run.dataset,
        lambda run: f"at {run.evaluate_at}",
        lambda run: f"seed {run.config['run'].get('seed')}",
        lambda run: run.path.resolve().name,
    ]
    labels = [run.label for run in runs]
    names = list(labels)
    for label in {label for label in labels if labels.count(label) > 1}:
        same = [index for index, other in enumerate(labels) if other == label]
        suffixes = [f"#{position + 1}" for position in range(len(same))]
        for distinction in distinctions:
            candidates = [distinction(runs[index]) for index in same]
            if len(set(candidates)) == len(candidates):
                suffixes = candidates
                break
        for index, suffix in zip(same, suffixes, strict=True):
            names[index] = f"{label} · {suffix}"
    return names


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}:{error.lineno}: not valid JSON ({error.msg}); restore the file or run again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}:1: expected a JSON object; restore the file or run again")
    return content


def _check_config(config: dict[str, Any], file: Path) -> None:
    remedy = "is this the config.json of a fedjax-rec run?"
    if not isinstance(config.get("method"), str):
        raise InputError(f"{file}: key 'method' is missing or not a string; {remedy}")
    run = config.get("run")
    if not isinstance(run, dict):
        raise InputError(f"{file}: key 'run' is missing or not an object; {remedy}")
    for key, allowed in (("protocol", _PROTOCOLS), ("split", tuple(_SELECTION))):
        if run.get(key) not in allowed:
            raise InputError(
                f"{file}: key 'run.{key}' is {run.get(key)!r}, not one of {', '.join(allowed)}; "
                + remedy
            )
    if not isinstance(config.get("data", {}), dict):
        raise InputError(f"{file}: key 'data' is not an object; {remedy}")


def _check_summary(summary: dict[str, Any], file: Path) -> None:
    expected = {"best_round": int, "selection": str, "test": dict}
    for key, kind in expected.items():
        if not isinstance(summary.get(key), kind):
            raise InputError(
                f"{file}: key '{key}' is missing or not a JSON {kind.__name__}; "
                "delete the file to read the run as unfinished"
            )


def _read_history(file: Path, *, torn_tail_allowed: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    nothing = f"{file}: no evaluated round yet; finish the run first (`fedjax-rec run --resume`)"
    if not file.is_file():
        raise InputError(nothing)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); restore the file") from None
    lines = text.splitlines()
    rows, notes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse_row(line))
        except ValueError as error:
            if torn_tail_allowed and number == len(lines) and not text.endswith("\n"):
                notes.append(f"metrics.jsonl: line {number} was cut off and is left out")
                continue
            raise InputError(
                f"{file}:{number}: {error}; remove the line or resume the run to rewrite the file"
            ) from None
    history = pd.DataFrame(rows)
    if history.empty or "test" not in set(history["split"]):
        raise InputError(nothing)
    if history.duplicated(["round", "split"]).any():
        double = history[history.duplicated(["round", "split"])].iloc[0]
        raise InputError(
            f"{file}: round {double['round']} ({double['split']}) occurs twice; "
            "resume the run to rewrite the file"
        )
    return history, tuple(notes)


def _parse_row(line: str) -> dict[str, Any]:
    """One metrics line; unknown keys pass, so that older reports read newer runs."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if not isinstance(row.get("round"), int) or isinstance(row["round"], bool):
        raise ValueError("key 'round' is missing or not an integer")
    if row.get("split") not in ("val", "test"):
        raise ValueError(f"key 'split' is {row.get('split')!r}, not 'val' or 'test'")
    for key, value in row.items():
        measured = (
            "@" in key
            or key in _GROUP_KEYS
            or key.endswith(("_bytes", "_bytes_total", "seconds", "_loss"))
        )
        if measured and value is not None and not isinstance(value, int | float):
            raise ValueError(f"key '{key}' is {value!r}, not a number")
    return row


def _summarize(config: dict[str, Any], history: pd.DataFrame, file: Path) -> dict[str, Any]:
    selection = _SELECTION[config["run"]["split"]]
    validation = history[history["split"] == "val"].set_index("round").sort_index()
    test = history[history["split"] == "test"].set_index("round").sort_index()
    scored = validation[selection] if selection in validation else pd.Series(dtype=float)
    # A round whose test line is still missing (killed between the two) cannot be reported.
    scored = scored[scored.index.isin(test.index)].dropna()
    if scored.empty:
        raise InputError(
            f"{file}: no round has both a validation '{selection}' and a test line; "
            "finish the run first (`fedjax-rec run --resume`)"
        )
    best = int(scored.idxmax())
    metrics = [column for column in history.columns if "@" in column]
    last = test.iloc[-1]
    totals = {key: last.get(key) for key in ("uplink_bytes_total", "downlink_bytes_total")}
    seconds = {name: test[key].sum() for key, name in _SECONDS.items() if key in test}
    return {
        "method": config["method"],
        "rounds": int(history["round"].max()),
        "best_round": best,
        "selection": selection,
        "validation": validation.loc[best, metrics].dropna().to_dict(),
        "test": test.loc[best, metrics].dropna().to_dict(),
        "final_test": last[metrics].dropna().to_dict(),
        "warnings": [],
        **totals,
        **seconds,
    }


def _read_embeddings(path: Path) -> ItemEmbeddings | None:
    file = path / "embeddings.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{file}: cannot be read ({reason}); delete it to report without the item map"
        ) from None
    vectors = arrays.get("item_embeddings")
    if vectors is None or vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(
            f"{file}: 'item_embeddings' is missing or not a float matrix; "
            "delete the file to report without the item map"
        )
    optional = {key: arrays.get(key) for key in ("labels", "item_id", "title", "truth")}
    for key, array in optional.items():
        if array is not None and array.shape != (len(vectors),):
            raise InputError(
                f"{file}: '{key}' has shape {array.shape}, expected ({len(vectors)},); "
                "delete the file to report without the item map"
            )
    return ItemEmbeddings(vectors=vectors, **optional)
