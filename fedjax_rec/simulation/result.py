"""What a simulation returns: history, summary, states, and recommendations to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from fedjax_rec.data import Problem
from fedjax_rec.errors import InputError
from fedjax_rec.methods import Method

__all__ = ["Result"]


@dataclass(frozen=True, repr=False)
class Result:
    """A finished simulation.

    Attributes:
      method: the method.
      problem: what it was trained on.
      history: one row for each evaluated round and split; columns as ``metrics.jsonl``.
      summary: as ``summary.json``: best round by validation, test metrics there, bytes, seconds.
      timings: one row a round: round, seconds, compile_seconds, device_seconds, host_seconds,
        eval_seconds, checkpoint_seconds.
      server_state: the method's server state after the last round.
      out: the run's folder, or None.
      fetch_client_states: brings the states to the host; use ``client_states``. With several
        processes all must call it, and process 0 has the states.
    """

    method: Method
    problem: Problem
    history: pd.DataFrame
    summary: dict[str, Any]
    timings: pd.DataFrame
    server_state: Any
    out: Path | None
    fetch_client_states: Callable[[], Any]

    @cached_property
    def client_states(self) -> Any:
        """All clients' states after the last round, NumPy arrays [num_clients, …].

        Fetched from the devices on first use: they can be most of the memory of a run.
        """
        return self.fetch_client_states()

    @property
    def labels(self) -> np.ndarray | None:
        """[m] integers, the cluster of each item as the server knows it after the last round.

        Items are in the order of ``problem.dataset.item_ids``. Communities or k-means clusters;
        first-level codes under RQFedRec. None for a method without such (PFedRec), and where no
        round has made any yet.
        """
        return self._item_view.get("labels")

    @property
    def items(self) -> np.ndarray | None:
        """[m, d] float32 item embeddings that the server has after the last round.

        Items are in the order of ``problem.dataset.item_ids``. None where the server has none, as
        under AlignFedRec, whose clients upload similarities.
        """
        return self._item_view.get("item_embeddings")

    @cached_property
    def _item_view(self) -> dict[str, np.ndarray]:
        return self.method.item_view(self.server_state)

    def __repr__(self) -> str:
        scores = ", ".join(
            f"{name} {100 * value:.1f} %"
            for name, value in self.summary["test"].items()
            if value is not None
        )
        return (
            f"Result({self.method.name} on {self.problem.dataset.name}, {self.problem.protocol}: "
            f"best round {self.summary['best_round']} of {self.summary['rounds']}, test {scores})"
        )

    def recommend(self, user: str | int, k: int = 10) -> pd.DataFrame:
        """What a user would be served after the last round: the best unseen items.

        Training items are left out; held-out ones are not, since the system does not know them.

        Args:
          user: the dataset's own id of the user (``"196"``, or 196).
          k: how many items.

        Returns:
          Columns rank (from 1), item (the dataset's id), title (where the data has titles), score
          (before the sigmoid) and held_out ("validation", "test" or "").

        Raises:
          InputError: an unknown user, a user that the split dropped, or k < 1.
        """
        problem, dataset = self.problem, self.problem.dataset
        if k < 1:
            raise InputError(f"k={k} must be at least 1")
        number = self._user_number(str(user))
        client = int(np.searchsorted(problem.client_starts, number, side="right")) - 1
        slot = number - int(problem.client_starts[client])

        state = jax.tree.map(lambda x: jnp.asarray(x[client]), self.client_states)
        scores = np.array(self._scores(state, client, slot), np.float64)
        scores[problem.train[number]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        best = best[np.isfinite(scores[best])]
        table = pd.DataFrame({"rank": np.arange(1, len(best) + 1), "item": dataset.item_ids[best]})
        if dataset.item_titles is not None:
            table["title"] = dataset.item_titles[best]
        table["score"] = scores[best]
        held_out = np.full(len(best), "", object)
        held_out[np.isin(best, problem.validation[number])] = "validation"
        held_out[np.isin(best, problem.test[number])] = "test"
        table["held_out"] = held_out
        return table

    def _user_number(self, user: str) -> int:
        problem = self.problem
        known = np.flatnonzero(problem.dataset.user_ids == user)
        if not len(known):
            raise InputError(f"user {user!r} is not in {problem.dataset.name}")
        kept = np.flatnonzero(problem.user_index == known[0])
        if not len(kept):
            raise InputError(
                f"user {user!r} of {problem.dataset.name} takes no part: dropped by the split "
                "(too few interactions) or beyond --client-limit"
            )
        return int(kept[0])

    def _scores(self, state, client, slot):
        from fedjax_rec.simulation.clients import own_broadcast

        download = own_broadcast(self.method.broadcast(self.server_state), client)
        # A download does not depend on the training data; scoring needs no randomness.
        state = self.method.receive(jax.random.key(0), state, download, None)
        return self.method.scores(state, download.shared, slot)
