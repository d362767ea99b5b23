"""The same programs, client by client and without jit, for finding out what goes wrong where."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.methods import Method
from fedjax_rec.simulation import clients

__all__ = ["Program"]


class Program:
    """Stands in for a compiled ``train_bucket`` or ``evaluate_bucket`` program.

    Python runs every line of the method, one client after another on one device: prints print,
    breakpoints break, and an exception carries the client's id. Slow by a factor of hundreds.

    Args:
      method: the method.
      evaluate: as ``train_bucket``; None stands in for ``evaluate_bucket``.
    """

    def __init__(self, method: Method, *, evaluate: bool | None) -> None:
        self._method = method
        self._evaluate = evaluate

    def compile(self) -> Any:
        """What a lowered program would do next."""
        return self._rank if self._evaluate is None else self._train

    def _train(
        self, acc, states, kept, sent, places, data, held_out, order, counts, broadcast, key
    ):
        acc = jax.tree.map(lambda x: x[0], acc)
        reports = clients.blank_reports(sent, held_out, bool(self._evaluate))
        for row in np.asarray(order)[: int(counts[0])]:
            at, in_all = int(places.states) + int(row), int(places.rows) + int(row)
            new, upload, weight, report = self._one(
                clients.train_client,
                (key, _row(states, at), clients.own_broadcast(broadcast, in_all)),
                _row(data, row),
                _row(held_out, row),
                evaluate=self._evaluate,
            )
            group = jax.tree.map(lambda x: jnp.asarray(x)[None], upload)
            acc, counted = self._method.reduce(acc, group, jnp.asarray(weight)[None])
            report = report._replace(sent=_row(counted, 0))
            states = _write(states, at, new)
            if kept is not None:
                kept = _write(kept, in_all, upload)
            reports = _write(reports, row, report)
        return jax.tree.map(lambda x: x[None], acc), states, kept, reports

    def _rank(self, states, places, data, held_out, order, counts, broadcast, key):
        ranks = clients.blank_ranks(held_out, (len(data.positives),))
        for row in np.asarray(order)[: int(counts[0])]:
            own = clients.own_broadcast(broadcast, int(places.rows) + int(row))
            one = self._one(
                clients.evaluate_client,
                (key, _row(states, int(places.states) + int(row)), own),
                _row(data, row),
                _row(held_out, row),
            )
            ranks = _write(ranks, row, one)
        return ranks

    def _one(self, function, leading, data, held_out, **options):
        try:
            with jax.disable_jit():
                data = data._replace(longest=data.positives)
                users = int(held_out.users)
                return function(self._method, *leading, data, held_out, users, **options)
        except Exception as error:
            error.add_note(f"while running client {int(data.client)} ({function.__name__})")
            raise


def _row(tree, row):
    return jax.tree.map(lambda x: x[row], tree)


def _write(tree, row, values):
    return jax.tree.map(lambda x, v: x.at[row].set(v), tree, values)
