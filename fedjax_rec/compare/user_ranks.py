"""A run's ``ranks.npz``, read back: every user's ranks on the test split at the best round."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.ranks_file import RANKS_FILE

__all__ = ["UserRanks", "load_user_ranks"]

_NEEDED = ("round", "user_id", "train_items", "item_users", "test_items", "test_full")


@dataclass(frozen=True, eq=False)
class UserRanks:
    """Test ranks by user; arrays as `simulation.ranks_file` has them.

    Attributes:
      round: the best round by validation.
      user_id: [users] str.
      train_items: [users] int32, items that each user trains on.
      item_users: [m] int32, users who train on each item.
      test_items: [users, T] int32, held-out items; -1 is padding.
      test: "uni99" (leave-one-out only) and "full" -> [users, T] int32, their zero-based ranks.
    """

    round: int
    user_id: np.ndarray
    train_items: np.ndarray
    item_users: np.ndarray
    test_items: np.ndarray
    test: dict[str, np.ndarray]


def load_user_ranks(folder: Path, best_round: int) -> UserRanks:
    """Reads the file of a finished run.

    Args:
      folder: the run's.
      best_round: what its summary says.

    Raises:
      InputError: it is not there, not whole, or of another round.
    """
    file = folder / RANKS_FILE
    remedy = f"delete the folder {folder}, and the same command runs it again"
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {RANKS_FILE}: an older version ran it, or its best round; {remedy}"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: cannot be read ({reason}); {remedy}") from None
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise InputError(f"{file}: {', '.join(missing)} missing; {remedy}")
    if int(arrays["round"]) != best_round:
        raise InputError(
            f"{file} is of round {arrays['round']}, the best of the run is {best_round}; {remedy}"
        )
    rankings = [name for name in ("uni99", "full") if f"test_{name}" in arrays]
    return UserRanks(
        round=best_round,
        user_id=arrays["user_id"],
        train_items=arrays["train_items"],
        item_users=arrays["item_users"],
        test_items=arrays["test_items"],
        test={name: arrays[f"test_{name}"] for name in rankings},
    )
