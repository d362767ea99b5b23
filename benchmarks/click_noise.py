"""Accidental clicks: random items among what users train on, FedMF against RQFedRec.

A share of every user's training interactions is added to them, drawn at random from the items that
the user never interacted with. What is held out, for validation and for the test, stays clean, so
the scores measure what the noise does to learning and nothing else. ML-100K's ratio split, 100
silos, full ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import Table, main
from robustness import (
    LABELS,
    Line,
    RobustnessOptions,
    check_levels,
    draw,
    federation,
    save_figure,
    study,
)

from fedjax_rec.data import Problem, inject_clicks
from fedjax_rec.errors import InputError

__all__ = ["ClickNoiseOptions", "run"]

METHODS = ("fedmf", "rqfedrec", "popularity")
COLUMN = "clicks %"


@dataclass(frozen=True)
class ClickNoiseOptions(RobustnessOptions):
    """Options of the click noise study.

    Attributes:
      fractions: clicks added, as shares of each user's training interactions.
      methods: which to train: fedmf, rqfedrec, popularity.
    """

    fractions: tuple[float, ...] = (0.05, 0.10, 0.15)
    methods: tuple[str, ...] = METHODS


def run(options: ClickNoiseOptions) -> Table:
    """Trains every method without noise and at every share of it; one row each."""
    check_levels("--fractions", options.fractions)
    if options.fractions[-1] > 1:
        raise InputError(f"--fractions {options.fractions[-1]} must be at most 1 (0.1 is 10 %)")
    if not options.methods or set(options.methods) - set(METHODS):
        raise InputError(
            f"--methods {' '.join(options.methods) or '(none)'}: choose from {', '.join(METHODS)}"
        )
    table = Table("click_noise", "Random clicks in the training data, test (percent)", options)

    def noisy(percent: float, seed: int) -> Problem:
        return inject_clicks(federation(options, seed), percent / 100, seed=seed)

    levels = [round(100 * fraction, 9) for fraction in options.fractions]
    lines = [Line(LABELS[name], name) for name in options.methods]
    study(table, options, COLUMN, levels, lines, noisy)
    table.note(
        "Clicks are drawn uniformly from the items outside of a user's whole history (no training, "
        "validation or test item), with one draw a seed for all methods; of two shares, the "
        "smaller one's clicks are among the larger one's. They are trained as positives, count in "
        "a silo's weight and are left out of the ranking, like all training items."
    )
    table.note(
        "Popularity learns next to nothing from the clicks: its rows show what leaving clicked "
        "items out of the ranking does by itself."
    )
    table.note(
        "Validation and test are clean. 'lost': against the same seed without noise; every run is "
        "quoted at its own best round by validation Recall@10."
    )
    save_figure(
        table, lambda: draw(table.rows, COLUMN, "random clicks, % of training interactions")
    )
    return table


if __name__ == "__main__":
    main(ClickNoiseOptions, run, __doc__ or "")
