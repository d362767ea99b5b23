"""What can be known of the trials' data before the first of them starts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

from fedjax_rec.data import KNOWN_DATASETS, load_dataset, locate, synthetic
from fedjax_rec.data.options import check_options
from fedjax_rec.errors import InputError
from fedjax_rec.sweep.trials import Trial

__all__ = ["check_data"]


def check_data(trials: Iterable[Trial]) -> None:
    """Refuses data that no trial could use, and downloads what is known and not at hand.

    Once here, so that trials that run side by side do not all download it. Files are looked for,
    not read: that may take minutes, and a trial says itself what is wrong with one.

    Args:
      trials: all of the sweep.

    Raises:
      InputError: data that is not there, options of synthetic data that do not exist, or more
        clients than there are users to group, as far as their number is known.
    """
    located: set[str] = set()
    for trial in trials:
        data, options = trial.options["data"], trial.options["data_options"]
        users = None
        if data == "synthetic":
            signature = inspect.signature(synthetic)
            check_options(options, signature, what="the synthetic dataset")
            users = options.get("users", signature.parameters["users"].default)
        elif data in KNOWN_DATASETS:
            users = KNOWN_DATASETS[data].users
            if data not in located:
                locate(data)
                located.add(data)
        elif not Path(data).exists():
            load_dataset(data, download=False)  # says what it could be, and raises
        for name in ("clients", "client_limit"):
            _check_count(name, trial.options[name], users, data)


def _check_count(name: str, wanted: int | None, users: object, data: str) -> None:
    if isinstance(users, int) and wanted is not None and wanted > users:
        remedy = (
            "set data_options.users to as many, or more"
            if data == "synthetic"
            else f"ask for {users:,} or fewer, or sweep data = 'synthetic', which has any number"
        )
        raise InputError(f"{name} = {wanted} is more than the {users:,} users of {data}: {remedy}")
