"""The figure shows every catalogue, on one scale, whatever the bytes."""

import budget_figure
import pytest
from harness import InputError


def rows(catalogue: str, sizes: list[int]) -> list[dict]:
    return [
        {
            "catalogue": catalogue,
            "items": 1000,
            "by": "pfedrec",
            "init std": 1.0,
            "rounds": 5,
            "σ": 0.1 * (k + 1),
            "up B, 32 bit": size,
            "up B, 4 bit": size // 4,
            "M_g B": size,
            "id B": 256_000,
            "labels B": 750,
            "codebook B": 196_608,
        }
        for k, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("catalogues", [1, 3, 4])
def test_a_panel_a_catalogue_and_every_line_in_it(catalogues: int) -> None:
    found = [row for k in range(catalogues) for row in rows(f"c{k}", [10**7, 10**4, 0])]
    figure = budget_figure.draw(found)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"c{k}, 1,000 items" for k in range(catalogues)
    ]
    for axes in panels:
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        assert lines["upload, float32"] == [10**7, 10**4, 1]  # no bytes: the bottom of the scale
        assert lines["id-indexed"] == [256_000, 256_000]
        low, high = axes.get_ylim()
        assert low < 1 < 10**7 < high
    figure.canvas.draw()  # layout and ticks work


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        budget_figure.draw([])
