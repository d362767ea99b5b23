import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from fedjax_rec.methods import REGISTRY, build
from fedjax_rec.reports import Run, load_run
from fedjax_rec.reports import theme as theme_module
from fedjax_rec.reports.clusters import (
    cluster_examples,
    cluster_history,
    cluster_sizes_over_rounds,
    item_map,
    project_items,
    recovered_truth,
)
from fedjax_rec.reports.figures import report_figures
from fedjax_rec.reports.plots import (
    communities_over_rounds,
    community_panels,
    panel_metrics,
    scores_over_bytes,
    scores_over_rounds,
    wall_time,
)
from fedjax_rec.reports.runs import ItemEmbeddings
from fedjax_rec.reports.theme import DARK, LIGHT, LineStyle, line_styles, plain

from .fakes import write_lines, write_run


@pytest.fixture
def three(tmp_path: Path) -> list[Run]:
    return [
        load_run(write_run(tmp_path / method, method, rounds=12, embeddings=False))
        for method in ("cgfedrec", "pfedrec", "local")
    ]


def _save(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png")


def _texts(figure: Figure) -> set[str]:
    drawn = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    return drawn | {text.get_text() for axes in figure.axes for text in axes.texts}


def test_scores_over_rounds_draw_the_test_rows(three: list[Run]) -> None:
    figure = scores_over_rounds(three)
    _save(figure)
    hr, _ = figure.axes
    curve = hr.lines[0]
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, 13))
    np.testing.assert_allclose(curve.get_ydata(), 100 * three[0].test_rows["hr@10/uni99"])
    chosen = hr.lines[1]
    assert list(chosen.get_xdata()) == [three[0].best_round]
    assert chosen.get_ydata()[0] == pytest.approx(100 * three[0].test["hr@10/uni99"])
    assert {"cgfedrec", "pfedrec", "local", "chance"} <= _texts(figure)


def test_a_run_without_traffic_stays_on_the_byte_figure(three: list[Run]) -> None:
    figure = scores_over_bytes(three)
    _save(figure)
    assert len(figure.axes) == 4
    for axes, metric in zip(figure.axes, ["hr@10/uni99"] * 2 + ["ndcg@10/uni99"] * 2, strict=True):
        assert axes.get_xscale() == "log"
        level = 100 * three[2].test[metric]
        across = [line for line in axes.lines if np.allclose(line.get_ydata(), level)]
        assert len(across) == 1
        assert "local" in {text.get_text() for text in axes.texts}
    low, high = figure.axes[0].get_xlim()
    assert low < 225 * 943
    assert high > three[1].test_rows["uplink_bytes_total"].max()


def test_only_silent_runs_still_make_a_report(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / method, method, rounds=3, embeddings=False))
        for method in ("local", "popularity")
    ]
    _save(scores_over_rounds(runs))
    assert [p.name for p in report_figures(runs)] == ["rounds-uni99", "rounds-full", "time"]


def test_ratio_runs_show_recall_over_all_items(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", rounds=3, split="ratio", embeddings=False))
    assert panel_metrics([run], "uni99") == []
    assert panel_metrics([run], "full") == ["recall@10/full", "ndcg@10/full"]
    assert "bytes-full" in [picture.name for picture in report_figures([run])]


def test_the_time_bars_add_up_to_the_wall_time(three: list[Run]) -> None:
    figure = wall_time(three)
    _save(figure)
    absolute, relative = figure.axes
    for position, run in enumerate(three):
        bars = [bar for bar in absolute.patches if round(bar.get_y() + 0.31) == position]
        assert sum(bar.get_width() for bar in bars) == pytest.approx(run.total("wall_seconds"))
    assert sum(bar.get_width() for bar in relative.patches) == pytest.approx(100 * len(three))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_each_run_keeps_its_own_style(three: list[Run], theme) -> None:
    styles = line_styles(three, theme)
    assert len(set(styles)) == 3
    assert styles[2].color == theme.muted
    # The order of the runs moves nobody's colour.
    assert line_styles(three[::-1], theme)[::-1] == styles
    assert len(set(line_styles([three[0]] * 20, theme))) == 20


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory) -> dict[str, Run]:
    folder = write_run(tmp_path_factory.mktemp("runs"), rounds=1, embeddings=False)
    run = load_run(folder)
    return {
        method: dataclasses.replace(run, config={**run.config, "method": method})
        for method in [*REGISTRY, "from-elsewhere"]
    }


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_all_methods_in_one_report_are_told_apart(one_of_each, theme) -> None:
    styles = line_styles([*one_of_each.values()], theme)
    assert len(set(styles)) == len(one_of_each) > 19


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_method_looks_alike_in_every_report(one_of_each, data) -> None:
    known = [run for method, run in one_of_each.items() if method in theme_module._PLACES]
    alone = {run.method: line_styles([run], LIGHT)[0] for run in known}
    runs = data.draw(st.lists(st.sampled_from([*one_of_each.values()]), max_size=30))
    first: dict[str, LineStyle] = {}
    for run, style in zip(runs, line_styles(runs, LIGHT), strict=True):
        first.setdefault(run.method, style)
    for method, style in first.items():
        assert style == alone.get(method, style)
    assert len(set(first.values())) == len(first)


def test_many_runs_of_a_control_leave_the_others_their_styles(one_of_each) -> None:
    runs = [one_of_each["popularity"]] * 5 + [one_of_each["local"]]
    assert line_styles(runs, LIGHT)[-1] == line_styles(runs[-1:], LIGHT)[0]


def test_controls_are_grey_and_nothing_else_is(one_of_each) -> None:
    grey = {
        method
        for method, run in one_of_each.items()
        if line_styles([run], LIGHT)[0].color == LIGHT.muted
    }
    central = {name for name in REGISTRY if build(name).centralized}
    assert grey == {"local", "mf-local", "popularity"} | central


@pytest.mark.parametrize("label", ["$\\frac{$", "_hidden", "a\nb", "x" * 400, "100 $ and 5 $", "["])
def test_any_label_can_be_drawn(tmp_path: Path, label: str) -> None:
    run = load_run(write_run(tmp_path / "run", label=label, rounds=2, embeddings=False))
    for figure in (scores_over_rounds([run]), scores_over_bytes([run]), wall_time([run])):
        _save(figure)
    assert plain(label) in _texts(scores_over_rounds([run]))


def test_cluster_sizes_are_sorted_and_padded(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=3, every=1, clusters=4, items=20)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    first_test = next(i for i, line in enumerate(lines) if '"test"' in line)
    head = lines[first_test].split('"cluster_sizes"')[0]
    lines[first_test] = head + '"cluster_sizes": [5, 0, 15]}'
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    rounds, sizes = cluster_history(load_run(folder))
    assert rounds.tolist() == [1, 2, 3]
    assert sizes[0].tolist() == [15, 5, 0, 0]
    assert sizes.sum(axis=1).tolist() == [20, 20, 20]


@pytest.mark.parametrize("rounds", [1, 7])
def test_sixty_clusters_are_drawn_with_their_effective_number(tmp_path: Path, rounds: int) -> None:
    run = load_run(write_run(tmp_path / "run", rounds=rounds, clusters=60, items=300))
    figure = cluster_sizes_over_rounds(run)
    _save(figure)
    _, sizes = cluster_history(run)
    shares = sizes[-1] / sizes[-1].sum()
    effective = np.exp(-(shares * np.log(shares)).sum())
    assert figure.axes[0].lines[1].get_ydata()[-1] == pytest.approx(effective)
    assert {"60 clusters", f"{effective:.0f} effective"} <= _texts(figure)


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_communities_are_drawn_for_the_runs_that_have_them(tmp_path: Path) -> None:
    runs = [
        load_run(
            write_run(tmp_path / method, method, rounds=6, clusters=8, truth=True, embeddings=False)
        )
        for method in ("alignfedrec", "cgfedrec", "local")
    ]
    figure = communities_over_rounds(runs)
    _save(figure)
    assert _titles(figure) == ["Communities", "Modularity", "NMI with the truth"]
    assert {"alignfedrec", "cgfedrec"} <= _texts(figure)
    assert "local" not in _texts(figure)
    modularity, mutual = figure.axes[1].lines, figure.axes[2].lines
    # The round without a graph is a gap, not a zero; k-means has no modularity at all.
    assert np.isnan(modularity[0].get_ydata()[0])
    np.testing.assert_allclose(
        modularity[0].get_ydata()[1:], 0.4 - 0.3 / np.arange(2, 7), rtol=1e-12
    )
    colors = [style.color for style in line_styles(runs, LIGHT)]
    assert {line.get_color() for line in modularity} == {colors[0]}
    assert {line.get_color() for line in mutual} == set(colors[:2])
    assert list(mutual[1].get_xdata()) == [runs[0].best_round]
    assert figure.axes[0].get_ylim()[0] == 0


def test_communities_come_from_the_validation_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=3, clusters=8, embeddings=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["communities"] = row["round"] if row["split"] == "val" else 100
    write_lines(folder / "metrics.jsonl", rows)
    line = communities_over_rounds([load_run(folder)]).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, 3])


def test_panels_without_data_are_left_out(tmp_path: Path) -> None:
    def panels(method: str, *, rounds: int = 3, truth: bool = False) -> list[str]:
        folder = tmp_path / f"{method}-{rounds}-{truth}"
        write_run(folder, method, rounds=rounds, clusters=8, truth=truth, embeddings=False)
        return community_panels([load_run(folder)])

    assert panels("alignfedrec") == ["communities", "modularity"]
    # Its only modularity is null.
    assert panels("alignfedrec", rounds=1, truth=True) == ["communities", "nmi"]
    assert panels("cgfedrec") == ["communities"]
    assert panels("local") == []


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.none() | st.floats(-0.5, 1), min_size=1, max_size=6))
def test_every_known_modularity_is_visible(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None]
) -> None:
    folder = write_run(tmp_path_factory.mktemp("run"), rounds=len(values), embeddings=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["modularity"] = values[row["round"] - 1]
    write_lines(folder / "metrics.jsonl", rows)
    run = load_run(folder)
    known = {number for number, value in enumerate(values, start=1) if value is not None}
    assert ("modularity" in community_panels([run])) == bool(known)
    if not known:
        return
    axes = communities_over_rounds([run]).axes[1]
    curve, _, lonely = axes.lines
    low, high = axes.get_ylim()
    assert low <= min(0, *(values[number - 1] for number in known))
    assert high >= max(0, *(values[number - 1] for number in known))
    # A line joins two known neighbours; every other known round needs a dot of its own.
    joined = {n for n in known if n - 1 in known or n + 1 in known}
    assert set(lonely.get_xdata()) == known - joined
    assert set(curve.get_xdata()[np.isfinite(curve.get_ydata())]) == known


def test_the_item_map_keeps_clusters_together_and_repeats_exactly() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 15).astype(np.int32)
    vectors = (8 * np.eye(4)[truth] + rng.normal(0, 0.3, (60, 4))).astype(np.float32)
    embeddings = ItemEmbeddings(vectors=vectors, labels=truth[::-1].copy(), truth=truth)
    projected = project_items(embeddings, seed=3)
    again = project_items(embeddings, seed=3)
    assert projected is not None
    assert again is not None
    np.testing.assert_array_equal(projected.points, again.points)
    distance = np.linalg.norm(projected.points[:, None] - projected.points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (truth[distance.argmin(axis=1)] == truth).all()
    assert recovered_truth(embeddings) == pytest.approx(1.0)
    figure = item_map(projected, embeddings)
    _save(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Clusters of the last round",
        "Planted clusters",
    ]


def test_a_large_catalogue_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedjax_rec.reports.clusters.MAX_MAPPED_ITEMS", 40)
    vectors = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    projected = project_items(ItemEmbeddings(vectors=vectors))
    assert projected is not None
    assert projected.total == 500
    assert len(set(projected.items.tolist())) == len(projected.points) == 40


@settings(max_examples=20, deadline=None)
@given(
    items=st.integers(1, 12),
    dim=st.integers(1, 4),
    kind=st.sampled_from(["normal", "equal", "nan", "huge", "line"]),
)
def test_odd_embeddings_give_a_finite_map_or_none(items: int, dim: int, kind: str) -> None:
    vectors = np.random.default_rng(items).normal(size=(items, dim)).astype(np.float32)
    if kind == "equal":
        vectors[:] = 1.5
    elif kind == "nan":
        vectors[0, 0] = np.nan
    elif kind == "huge":
        vectors *= 1e30
    elif kind == "line":
        vectors[:] = vectors[:, :1]
    projected = project_items(ItemEmbeddings(vectors=vectors))
    if items < 5 or kind in ("equal", "nan"):
        assert projected is None
    else:
        assert projected is not None
        assert np.isfinite(projected.points).all()


def test_cluster_examples_are_the_titles_nearest_to_the_centre() -> None:
    embeddings = ItemEmbeddings(
        vectors=np.array([[0.0], [1.0], [5.0], [9.0], [9.5]], np.float32),
        labels=np.array([7, 7, 7, 2, 2], np.int32),
        title=np.array(["far left", "near", "far right", "", "b"]),
    )
    assert cluster_examples(embeddings, examples=1) == [(7, 3, ["near"]), (2, 2, ["b"])]
    assert cluster_examples(ItemEmbeddings(vectors=embeddings.vectors)) == []


def test_all_pictures_of_a_full_report_are_wide_pngs(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / method, method, rounds=3, items=80, clusters=6, truth=True))
        for method in ("cgfedrec", "local")
    ]
    pictures = report_figures(runs)
    assert [picture.name for picture in pictures] == [
        "rounds-uni99",
        "rounds-full",
        "bytes-uni99",
        "time",
        "communities",
        "clusters-1",
        "items-1",
        "items-2",
    ]
    for picture in pictures:
        assert picture.light != picture.dark
        for content in (picture.light, picture.dark):
            with Image.open(io.BytesIO(content)) as image:
                assert image.width == 1400
                assert image.format == "PNG"
    assert "mutual information" in pictures[4].caption
    assert "mutual information" in pictures[6].caption
