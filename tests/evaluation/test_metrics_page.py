"""The page on the two definitions: its code runs, and its tables say what the code says."""

import doctest
import math
import re
import tomllib
from pathlib import Path

import pytest

import fedjax_rec
from fedjax_rec.evaluation import f1, mrr, mrr_published, ndcg, ndcg_published, precision, recall

REPOSITORY = Path(__file__).parents[2]
PAGE = Path(fedjax_rec.__file__).parent / "evaluation" / "METRICS.md"
TEXT = PAGE.read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def row(first_cell: str) -> list[str]:
    """The cells after the first, of the only table row that starts with ``first_cell``."""
    rows = [cells(line) for line in TEXT.splitlines() if line.startswith(f"| {first_cell} |")]
    assert len(rows) == 1, f"{PAGE.name} has {len(rows)} rows {first_cell!r}"
    return rows[0][1:]


@pytest.fixture(scope="module")
def example() -> dict:
    """Runs the page's code blocks, in order and in one namespace, and returns that."""
    blocks = list(re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL))
    assert len(blocks) == 4
    assert TEXT.count("```") == 2 * len(blocks)
    names: dict = {}
    runner = doctest.DocTestRunner(verbose=False)
    for block in blocks:
        line = TEXT[: block.start(1)].count("\n")
        test = doctest.DocTestParser().get_doctest(block[1], names, PAGE.name, str(PAGE), line)
        assert test.examples
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.summarize().failed == 0
    return names


def test_the_walk_through_the_set(example) -> None:
    items = [int(cell) for cell in row("item")]
    assert items == example["top_10"]
    assert [int(cell) for cell in row("place by score")] == list(range(10))
    slots = [int(cell) for cell in row("slot, i mod 32")]
    assert slots == [item % 32 for item in items]
    assert len(set(slots)) == 10  # no collision, as the page says
    by_slot = sorted(items, key=lambda item: item % 32)
    assert by_slot == list(set(items))
    assert [int(cell) for cell in row("place in the set")] == [by_slot.index(i) for i in items]


def test_the_gains() -> None:
    gains = [1 / math.log2(int(place) + 2) for place in row("place")]
    assert [float(cell) for cell in row("gain")] == pytest.approx(gains, abs=5e-5)


def test_the_figures_of_both_definitions(example) -> None:
    top, held_out = example["top_10"], example["held_out"]
    ranks = [[top.index(item) if item in top else 10 for item in held_out]]
    standard = {
        "Recall@10": recall,
        "Precision@10": precision,
        "F1@10": f1,
        "MRR@10": mrr,
        "NDCG@10": ndcg,
    }
    published = {"MRR@10": mrr_published, "NDCG@10": ndcg_published}
    for name, metric in standard.items():
        ours, theirs = row(name)
        assert worked_out(ours) == pytest.approx(metric(ranks, 10)[0], abs=5e-4)
        if name in published:
            assert worked_out(theirs) == pytest.approx(
                published[name]([top], [held_out])[0], abs=5e-4
            )
        else:
            assert theirs == "the same"


def test_dcg_is_the_sum_of_its_gains() -> None:
    for cell in row("DCG"):
        terms, total = cell.split(" = ")
        assert float(total) == pytest.approx(sum(map(float, terms.split(" + "))), abs=2e-4)
    for cell, places in zip(row("IDCG"), (8, 3), strict=True):
        ideal = sum(1 / math.log2(place + 2) for place in range(places))
        assert float(cell.split(": ")[1]) == pytest.approx(ideal, abs=5e-5)


def test_the_page_is_found_and_installed() -> None:
    name = PAGE.relative_to(REPOSITORY).as_posix()
    assert f"({name})" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = config["tool"]["setuptools"]["package-data"]["fedjax_rec"]
    assert any(Path("evaluation", PAGE.name).match(pattern) for pattern in patterns)


def worked_out(cell: str) -> float:
    """The figure of a cell "numerator/denominator = figure", after checking the division."""
    fraction, figure = cell.split(" = ")
    numerator, denominator = map(float, fraction.split("/"))
    assert float(figure) == pytest.approx(numerator / denominator, abs=5e-4)
    return float(figure)
