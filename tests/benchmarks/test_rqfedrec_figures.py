"""The figures show what the rows say."""

import pytest
import rqfedrec_ablations
import rqfedrec_figures
from harness import InputError


def variants(count: int, spread: float | None = None) -> list[dict]:
    return [
        {
            "variant": name,
            "kind": kind,
            "Recall@10": 15.0 - place,
            "± Recall@10": spread,
            "NDCG*@10": 60.0 - place,
            "± NDCG*@10": spread,
        }
        for place, (name, (kind, _)) in enumerate(rqfedrec_ablations.VARIANTS.items())
    ][:count]


@pytest.mark.parametrize("spread", [None, 0.5])
@pytest.mark.parametrize("count", [1, 10])
def test_a_bar_a_variant_in_order(count, spread):
    rows = variants(count, spread)
    figure = rqfedrec_figures.draw_ablations(rows)
    figure.canvas.draw()
    recall, ndcg = figure.axes
    assert [bar.get_width() for bar in recall.patches] == [row["Recall@10"] for row in rows]
    assert [bar.get_width() for bar in ndcg.patches] == [row["NDCG*@10"] for row in rows]
    assert [label.get_text() for label in recall.get_yticklabels()] == [
        row["variant"] for row in rows
    ]
    top, bottom = sorted(recall.get_ylim(), reverse=True), recall.get_ylim()
    assert list(bottom) == top  # the first bar is the uppermost
    assert len({bar.get_facecolor() for bar in recall.patches}) == len(
        {row["kind"] for row in rows}
    )


def test_bars_of_nothing_learnt():
    rows = [{**row, "Recall@10": 0.0, "NDCG*@10": 0.0} for row in variants(2)]
    rqfedrec_figures.draw_ablations(rows).canvas.draw()


def point(method: str, kb: float, recall: float, **more) -> dict:
    row = {"method": method, "kB": kb, "Recall@10": recall, "d": 8, "M": None, "L": None}
    return {**row, "channels": None, "bits": None, "smallest": None, **more}


ROWS = [
    point("local-mf", 0.0, 5.0),
    point("popularity", 13.0, 9.0, d=None),
    point("fedmf", 100.0, 12.0),
    point("fedmf", 200.0, 16.0),
    point("fedmf", 400.0, 15.0),
    point("rqfedrec", 300.0, 15.5, channels=2, M=8, L=2),
    point("rqfedrec", 150.0, 15.9, channels=1, M=8, L=2, bits=4, smallest="the best"),
]


def test_points_levels_and_marks():
    figure = rqfedrec_figures.draw_recall_bytes(ROWS)
    figure.canvas.draw()
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["FedMF"].get_xdata()) == [1e5, 2e5, 4e5]
    assert list(lines["FedMF"].get_ydata()) == [12.0, 16.0, 15.0]
    assert list(lines["RQFedRec"].get_xdata()) == [3e5]
    assert list(lines["RQFedRec, one channel"].get_xdata()) == [1.5e5]
    assert set(lines["local MF: no bytes"].get_ydata()) == {5.0}
    # Dearer points that bring nothing are not on the frontier, which runs on to the dearest.
    assert list(lines["best for its bytes"].get_xdata()) == [1.3e4, 1e5, 1.5e5, 2e5, 4e5]
    assert list(lines["best for its bytes"].get_ydata()) == [9.0, 12.0, 15.9, 16.0, 16.0]
    assert [text.get_text() for text in axes.texts] == ["A"]
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "RQFedRec, d 8, M 8, L 2, one channel, 4 bits up, 150.0 kB: 98 % of the best" in words


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_nothing_to_draw(rows):
    with pytest.raises(InputError, match="nothing to draw"):
        rqfedrec_figures.draw_recall_bytes(rows)


def test_no_variant_to_draw():
    with pytest.raises(InputError, match="nothing to draw"):
        rqfedrec_figures.draw_ablations([])
