"""Information volume: how much a round of communication changes what items are to each other.

For the global items v_i(t) after round t, the information volume of item i in that round is

    I_i(t) = mean over j ≠ i of |cos(v_i(t), v_j(t)) − cos(v_i(t − 1), v_j(t − 1))|,

shown by popularity (tenths of the catalogue, by training interactions) and round. Where embeddings
are indexed by item, only an item's own interactions and its turns as a negative move it; where
items share codes, an update of a code reaches all items that use it, rare ones too.

A change need not be information: noise moves items as well, to and fro. So the table sets the
changes of all rounds against what is left of them, the change from the first round to the last.

Reference:
  RQFedRec, figure 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ratio_settings
from harness import Options, Table, main, write_json
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from robustness import FEDERATION, LABELS, federation, save_figure

from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method
from fedjax_rec.reports.theme import LIGHT, dress, new_figure
from fedjax_rec.simulation.devices import client_mesh
from fedjax_rec.simulation.engine import Engine, State

__all__ = ["Volume", "VolumeOptions", "cosine_change", "draw", "run", "tenths"]

METHODS = ("fedmf", "rqfedrec")
GROUPS = 10
SPAN = 20  # rounds that a column of the table stands for


@dataclass(frozen=True)
class VolumeOptions(Options):
    """Options of the information volume study.

    Attributes:
      seeds: of the runs; figures are means over them. (--seed is of the toy dataset only.)
      dim: d of the embeddings.
      rounds: communication rounds.
      methods: whose: fedmf, rqfedrec.
      parts: folder of what is already measured: a study that was stopped goes on with the next
        method or seed. With --toy, none.
    """

    seeds: tuple[int, ...] = (0,)
    dim: int = 64
    rounds: int = 100
    methods: tuple[str, ...] = METHODS
    parts: Path = Path("runs/information_volume")


class Volume(NamedTuple):
    """Information volume of one method.

    Attributes:
      by_round: [groups, rounds] mean of I_i(t) over a group's items; column 0 is round 1.
      net: [groups] likewise, of the change from the end of round 1 to the end of the last round.
      bytes: a client's upload and download in a round, mean over the rounds.
    """

    by_round: np.ndarray
    net: np.ndarray
    bytes: float


def run(options: VolumeOptions) -> Table:
    """Measures every method; a row each for all items and for every tenth of them."""
    if not options.methods or set(options.methods) - set(METHODS):
        raise InputError(
            f"--methods {' '.join(options.methods) or '(none)'}: choose from {', '.join(METHODS)}"
        )
    if not options.seeds:
        raise InputError("--seeds: give at least one")
    if options.rounds < 2:
        raise InputError(f"--rounds {options.rounds} must be 2 or more: nothing changes in fewer")
    table = Table(
        "information_volume", "Mean change of item-item cosines in a round, × 1000", options
    )
    counts = _popularity(federation(options, options.seeds[0]))
    groups = tenths(counts)
    volumes = {}
    for name in options.methods:
        found = [_part(name, seed, options) for seed in options.seeds]
        volumes[name] = Volume(*(np.mean(values, axis=0) for values in zip(*found, strict=True)))
        for row in _rows(name, volumes[name], groups, counts):
            table.add(**row)
    table.note(
        f"{ratio_settings.FEDERATIONS[FEDERATION]}, d = {options.dim}, {options.rounds} rounds, "
        f"mean over {len(options.seeds)} seed(s). Items by popularity: tenth 1 has the most "
        "training interactions."
    )
    table.note(
        "Round 1 leaves the random start, which says little of communication; 'later' and the "
        "figure are about the rounds from 2 on."
    )
    table.note(
        "'net': the change from the end of round 1 to the end of the last round; 'kept': net as a "
        "share of the sum over rounds 2 to the last. A small share is movement to and fro."
    )
    table.note(
        "RQFedRec's rounds in which codes are remade include that, and from the first of them on "
        "the mix of its two channels changes with every round."
    )
    save_figure(table, lambda: draw(volumes))
    return table


def cosine_change(before: np.ndarray, after: np.ndarray, *, block: int = 512) -> np.ndarray:
    """Every item's mean absolute change of cosine to the other items, in blocks of rows.

    Args:
      before, after: [m, d] float32, m ≥ 2; a row of zeros has cosine 0 to all others.
      block: rows at a time: 2·block·m numbers are held.

    Returns:
      [m] float64.
    """
    old, new = _unit(before), _unit(after)
    m = len(old)
    sums = np.empty(m)
    for start in range(0, m, block):
        rows = np.arange(start, min(start + block, m))
        change = np.abs(new[rows] @ new.T - old[rows] @ old.T)
        change[rows - start, rows] = 0  # an item's cosine to itself
        sums[rows] = change.sum(axis=1, dtype=np.float64)
    return sums / (m - 1)


def tenths(counts: np.ndarray, groups: int = GROUPS) -> list[np.ndarray]:
    """Items in groups of equal size up to one, from the most to the least popular.

    Args:
      counts: [m] training interactions. Of equal counts, the lower item comes first.
      groups: how many.
    """
    return np.array_split(np.argsort(-counts, kind="stable"), groups)


def draw(volumes: dict[str, Volume]) -> Figure:
    """Heat maps on one logarithmic scale: tenths of the catalogue by round, a panel a method.

    Round 1 is left out: the change from a random start would be most of the scale.

    Raises:
      InputError: no method, or nothing that changed in a later round.
    """
    changes = np.array([x for v in volumes.values() for x in v.by_round[:, 1:].ravel()])
    if not (changes > 0).any():
        raise InputError("no item moved after round 1: there is nothing to draw")
    # Below a thousandth of the largest, a change is not worth a shade of its own.
    most = float(changes.max())
    least = max(float(changes[changes > 0].min()), most / 1000)
    scale = LogNorm(least, most)
    figure = new_figure(0.7 + 2.3 * len(volumes), LIGHT)
    panels = figure.subplots(len(volumes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, volume) in zip(panels, volumes.items(), strict=True):
        dress(axes, LIGHT, title=LABELS[name], grid=False)
        groups, rounds = volume.by_round.shape
        image = axes.imshow(
            np.maximum(volume.by_round[:, 1:], least),
            norm=scale,
            cmap=LIGHT.sequential,
            aspect="auto",
            interpolation="nearest",
            extent=(1.5, rounds + 0.5, groups + 0.5, 0.5),
        )
        axes.set_ylabel("items by popularity")
        axes.set_yticks([1, groups], ["top tenth", "last tenth"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("round")
    bar = figure.colorbar(image, ax=list(panels), aspect=30, pad=0.015)
    bar.set_label("mean |Δ cosine| to other items", color=LIGHT.ink, fontsize=10)
    bar.ax.tick_params(which="both", colors=LIGHT.muted, labelcolor=LIGHT.ink, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def _popularity(problem: Problem) -> np.ndarray:
    return np.bincount(problem.train.values, minlength=problem.num_items)


def _rows(
    name: str, volume: Volume, groups: Sequence[np.ndarray], counts: np.ndarray
) -> list[dict[str, Any]]:
    sizes = np.array([len(group) for group in groups])
    share = np.array([counts[group].sum() for group in groups]) / counts.sum()
    rounds = volume.by_round.shape[1]

    def row(items: str, weights: np.ndarray) -> dict[str, Any]:
        """The mean over the items of some groups."""
        by_round = np.average(volume.by_round, axis=0, weights=weights)
        net = float(np.average(volume.net, weights=weights))
        path = float(by_round[1:].sum())
        found: dict[str, Any] = {
            "method": LABELS[name],
            "items": items,
            "% of clicks": 100 * float(share[weights > 0].sum()),
            "round 1": 1e3 * float(by_round[0]),
            "later": 1e3 * float(by_round[1:].mean()),
        }
        for start in range(0, rounds, SPAN):
            first, stop = max(start, 1), min(start + SPAN, rounds)
            if first < stop:
                found[f"rounds {first + 1}–{stop}"] = 1e3 * float(by_round[first:stop].mean())
        return found | {"net": 1e3 * net, "kept %": 100 * net / path if path else None}

    one_each = np.eye(len(groups))
    return [
        row("all", sizes) | {"kB a round": volume.bytes / 1e3},
        *(row(f"tenth {number}", only) for number, only in enumerate(one_each, start=1)),
    ]


def _part(name: str, seed: int, options: VolumeOptions) -> Volume:
    """One method and seed, from the folder where it is measured already."""
    problem = federation(options, seed)
    method = ratio_settings.build(
        name, FEDERATION, problem.dataset, dim=options.dim, toy=options.toy
    )
    if options.toy:
        return _measure(method, problem, seed, options)
    asked = {"method": asdict(method.config), "seed": seed, "rounds": options.rounds}
    asked = json.loads(json.dumps(asked))  # as a file gives it back: tuples are lists there
    path = options.parts / f"{name}-d{options.dim}-{options.rounds}rounds-seed{seed}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in asked} == asked:
            return Volume(np.array(found["by_round"]), np.array(found["net"]), found["bytes"])
    volume = _measure(method, problem, seed, options)
    measured = {"by_round": volume.by_round.tolist(), "net": volume.net.tolist()}
    write_json(path, asked | measured | {"bytes": volume.bytes})
    return volume


def _measure(method: Method, problem: Problem, seed: int, options: VolumeOptions) -> Volume:
    groups = tenths(_popularity(problem))
    engine = Engine(method, problem, client_mesh(options.devices), seed=seed)
    state = engine.initial_state()
    before = first = _items(method, state)
    columns, sent = [], 0
    for number in range(1, options.rounds + 1):
        state, outcome = engine.run_round(state, number)
        after = _items(method, state)
        columns.append(_by_group(before, after, groups))
        sent += outcome.bytes.up + outcome.bytes.down
        if number == 1:
            first = after
        before = after
    return Volume(
        np.stack(columns, axis=1), _by_group(first, before, groups), sent / options.rounds
    )


def _items(method: Method, state: State) -> np.ndarray:
    return np.asarray(method.item_view(state.server)["item_embeddings"], np.float32)


def _by_group(before: np.ndarray, after: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    change = cosine_change(before, after)
    return np.array([change[group].mean() for group in groups])


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


if __name__ == "__main__":
    main(VolumeOptions, run, __doc__ or "")
