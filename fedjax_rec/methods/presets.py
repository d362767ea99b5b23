"""Named settings of methods, found by a search that a benchmark can repeat.

A preset changes defaults only: options given beside it win.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError

__all__ = ["PRESETS", "preset_options"]

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "alignfedrec": {
        # The best of benchmarks/alignfedrec_search.py on ML-100K, by validation (HR@10 41.8).
        "leak-free": {
            "dim": 32,
            "batch_size": 1024,
            "local_epochs": 1,
            "negatives": 1,
            "lr": 1e-2,
            "item_lr": 1e-3,
            "init_std": 1e-4,
            "threshold": 0.7,
            "graph_threshold": 0.06,
            "contrast_weight": 0.05,
            "gsa": False,
        },
    },
    "cofedrec": {
        # Of six runs of 60 rounds on ML-100K (benchmarks/sweeps/cofedrec.toml), the best with one
        # local epoch, by validation (HR@10 63.5; with two epochs 63.6). After 8 rounds it is as far
        # with the contrast as without, where a round takes a second instead of a quarter of a
        # minute.
        "leak-free": {"contrast_weight": 0.0},
    },
    "fedca": {
        # As its release: its solver is slow, so it mixes a tenth of the clients a round.
        "release": {"mixed_share": 0.1},
        # The best of six runs of 5 to 100 rounds on ML-100K, by validation (HR@10 48.9 after 60):
        # what a client keeps of its own table it has only learnt by heart.
        "leak-free": {
            "interpolation": 0.0,
            "init_std": 0.01,
            "local_epochs": 2,
            "lr": 0.02,
            "item_lr": 0.02,
        },
    },
    "fedncf": {
        # The best of seven runs of 10 to 30 rounds on ML-100K, by validation (HR@10 63.3 after 24).
        "leak-free": {"lr": 0.03, "item_lr": 0.1},
    },
    "fedrap": {
        # The best of fifteen runs of 10 to 45 rounds on ML-100K, by validation (HR@10 66.3 after
        # 40; with personal_lr=0 too, so D adds nothing there). At a rate that teaches C something,
        # the term between the tables diverges.
        "leak-free": {
            "lr": 0.1,
            "item_lr": 20_000.0,
            "personal_lr": 5.0,
            "weight_decay": 0.0,
            "batch_size": 256,
            "local_epochs": 1,
            "apart_weight": 0.0,
            "sparse_weight": 0.0,
            "step_decay": 1.0,
            "round_decay": 1.0,
        },
    },
    "gpfedrec": {
        # From the best of eight runs of 24 rounds on ML-100K (benchmarks/sweeps/gpfedrec.toml), by
        # validation (HR@10 65.7). That one's rate, 1.0, diverged with one of three other seeds, so
        # the network has half of it, five times the release's; users as fast as in that run.
        "leak-free": {
            "lr": 0.5,
            "item_lr": 14_000.0,
            "user_lr_scale": 20.0,
            "init_std": 0.1,
            "target_weight": 0.1,
        },
    },
    "pfedrec": {
        # The best of eighteen runs of 90 rounds on ML-100K (benchmarks/sweeps/pfedrec.toml), by
        # validation (HR@10 68.7 after 24; the release's own settings 67.8 after 75).
        "leak-free": {"lr": 0.05, "item_lr_scale": 160.0, "batch_size": 64},
    },
    "rqfedrec": {
        # The best by validation on ML-100K over 100 silos, see benchmarks/ratio_settings.py.
        "silos": {
            "dim": 64,
            "lr": 0.02,
            "item_lr": 0.02,
            "weight_decay": 3e-5,
            "warmup": 20,
        },
    },
}
"""Method -> preset -> options that differ from the method's defaults."""


def preset_options(method: str, preset: str | None) -> Mapping[str, Any]:
    """The options of a method's preset; none for None.

    Raises:
      InputError: a preset that the method does not have, with the nearest that it has.
    """
    if preset is None:
        return {}
    known = PRESETS.get(method, {})
    if not known:
        raise InputError(f"{method} has no presets: leave out preset={preset!r}")
    check_choice("preset", preset, known)
    return known[preset]
