"""What the figures say, in sentences: protocol, headline, what may not be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from fedjax_rec.reports.runs import Run, display_names
from fedjax_rec.units import human_bytes, percent

__all__ = [
    "CHANCE",
    "SPLIT_NAMES",
    "PROTOCOL_TEXT",
    "PUBLISHED_WARNING",
    "comparison_key",
    "headline",
    "comparability_notes",
    "setting_text",
]

#: Expected scores of a random order of 1 held-out item and 99 others: 10 of the 100 ranks hit.
CHANCE = {
    "hr@10/uni99": 0.10,
    "ndcg@10/uni99": sum(1 / math.log2(rank + 2) for rank in range(10)) / 100,
}

SPLIT_NAMES = {"loo": "leave-one-out", "ratio": "ratio split"}

PROTOCOL_TEXT = {
    "leak-free": (
        "Leak-free: while training, a client draws its negatives from every item outside the "
        "user's training items. The held-out items are therefore pushed down as often as any "
        "other unseen item, and nothing but learning can lift them. A client that trains alone "
        "stays near chance."
    ),
    "published": (
        "Published: while training, a client draws its negatives from the items outside the "
        "user's whole history, validation and test items counted as history, as the reference "
        "implementations of PFedRec, CoFedRec and CGFedRec do. Use it to compare with the tables "
        "of those papers, and for nothing else."
    ),
}

PUBLISHED_WARNING = (
    "These figures are inflated. The held-out item is the only unseen item that is never trained "
    "as a negative, so a model can find it without having learned any taste: on MovieLens-100K, "
    "clients that train alone and never communicate reach an HR@10 of about 95 % this way, and "
    "about 11 % without the leak. Check with: fedjax-rec run local --protocol published"
)

_EVALUATE_TEXT = {
    "download": "Clients are scored after they received the server's download: what a user would "
    "be served at the start of the next round.",
    "trained": "Clients are scored right after their local training, before the server's download.",
}
_SPLIT_TEXT = {
    "loo": "Leave-one-out: each user's last interaction is the test item, the one before it the "
    "validation item.",
    "ratio": "Ratio split: 72 % of each user's interactions train, 8 % validate, 20 % test; scores "
    "rank all items.",
}
_METHOD_NAMES = {"hr@10/uni99": "HR@10", "recall@10/full": "Recall@10"}


def comparison_key(run: Run) -> tuple[str, str, str]:
    """Runs with the same key (dataset, split, protocol) may be compared with each other."""
    return run.dataset, run.split, run.protocol


def headline(runs: Sequence[Run]) -> list[str]:
    """The result in words: for each comparable group who leads, by how much, and at what price.

    Args:
      runs: one or more runs.

    Returns:
      Sentences, the main result first.
    """
    named = sorted(zip(runs, display_names(runs), strict=True), key=lambda p: comparison_key(p[0]))
    sentences = []
    for _, group in groupby(named, key=lambda pair: comparison_key(pair[0])):
        sentences += _group_sentences(list(group))
    sentences += [
        f"{name} is unfinished: {run.rounds_done} of {run.rounds_planned} rounds."
        for run, name in zip(runs, display_names(runs), strict=True)
        if not run.finished
    ]
    return sentences


def comparability_notes(runs: Sequence[Run]) -> list[str]:
    """One sentence for each setting in which the runs of a report differ and must not."""
    aspects = (
        ("protocol", {run.protocol for run in runs}, "Their scores are not comparable."),
        ("dataset", {run.dataset for run in runs}, "Their scores are not comparable."),
        ("split", {SPLIT_NAMES[r.split] for r in runs}, "Their scores are not comparable."),
        (
            "point of evaluation",
            {run.evaluate_at for run in runs},
            "This alone can move a score by several points.",
        ),
        (
            "seed",
            {str(run.config["run"].get("seed")) for run in runs},
            "The 99 other candidates are drawn by seed: expect a point or two of noise.",
        ),
    )
    return [
        f"These runs differ in {aspect} ({', '.join(sorted(values))}). {consequence}"
        for aspect, values, consequence in aspects
        if len(values) > 1
    ]


def setting_text(runs: Sequence[Run]) -> list[str]:
    """How the runs were split and scored, one sentence for each way that occurs."""
    splits = [_SPLIT_TEXT[split] for split in SPLIT_NAMES if any(r.split == split for r in runs)]
    points = [text for at, text in _EVALUATE_TEXT.items() if any(r.evaluate_at == at for r in runs)]
    texts = splits + points
    if any("hr@10/uni99" in run.test for run in runs):
        texts.append(
            "uni99 ranks the held-out item among 99 items that the user never touched; full ranks "
            "it among all items, those of the user's training (and, at test, validation) left out. "
            "Ties count against it."
        )
    errors = {error for run in runs if (error := _standard_error(run, 0.5)) is not None}
    if errors:
        texts.append(
            f"The sampling error of a hit ratio is at most ±{100 * max(errors):.1f} points "
            "(one standard error, from the number of users)."
        )
    return texts


def _group_sentences(group: list[tuple[Run, str]]) -> list[str]:
    first = group[0][0]
    metric = first.selection
    name = _METHOD_NAMES.get(metric, metric)
    setting = f"On {first.dataset} ({SPLIT_NAMES[first.split]}, {first.protocol})"
    ranked = sorted(group, key=lambda pair: -pair[0].test.get(metric, -math.inf))
    # The sentence names the setting, so the names need not repeat it.
    short = display_names([run for run, _ in ranked])
    leader, leader_name = ranked[0][0], short[0]
    score = percent(leader.test.get(metric))
    chance = f" (chance: {percent(CHANCE[metric])})" if metric in CHANCE else ""
    if len(ranked) == 1:
        sentences = [
            f"{setting}, {leader_name} reaches {name} {score}{chance} at round "
            f"{leader.best_round} of {leader.rounds_done}."
        ]
    else:
        rest = ", ".join(
            f"{label} {percent(run.test.get(metric))}"
            for (run, _), label in zip(ranked[1:], short[1:], strict=True)
        )
        sentences = [f"{setting}, {leader_name} leads with {name} {score}{chance}; {rest}."]
    at_chance = [label for run, label in ranked if _near_chance(run, metric)]
    if at_chance:
        verb = "are" if len(at_chance) > 1 else "is"
        sentences.append(
            f"{_listing(at_chance)} {verb} within two standard errors of chance: no taste learned."
        )
    return sentences + _traffic_sentences(group)


def _traffic_sentences(group: list[tuple[Run, str]]) -> list[str]:
    sentences = []
    for direction, verb in (("downlink", "downloads"), ("uplink", "uploads")):
        sizes = [(size, label) for run, label in group if (size := run.per_client_bytes(direction))]
        if len(sizes) > 1:
            (least, frugal), (most, lavish) = min(sizes), max(sizes)
            if most / least >= 1.5:
                sentences.append(
                    f"{frugal} {verb} {human_bytes(least)} per client and round, {lavish} "
                    f"{human_bytes(most)}: {_ratio(most / least)} times as much."
                )
    return sentences


def _near_chance(run: Run, metric: str) -> bool:
    chance, score = CHANCE.get(metric), run.test.get(metric)
    if chance is None or score is None:
        return False
    error = _standard_error(run, chance)
    return error is not None and abs(score - chance) <= 2 * error


def _standard_error(run: Run, rate: float) -> float | None:
    """Binomial standard error of a hit ratio over the run's users, one held-out item each."""
    if run.split != "loo" or not run.users:
        return None
    return math.sqrt(rate * (1 - rate) / run.users)


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
