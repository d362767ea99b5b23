"""The robustness studies: what they measure by hand, what they refuse, and going on from disk."""

import click_noise
import harness
import information_volume
import ldp
import numpy as np
import pytest
import ratio_runs
import robustness
import staged
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 14), st.integers(0, 5), st.booleans())
def test_cosine_change_against_float64(items, dim, block, seed, zero) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(2, items, dim)).astype(np.float32)
    if zero:  # an item that nothing is known of
        before[0] = 0
    expected = np.zeros(items)
    for i in range(items):
        for j in range(items):
            if i != j:
                expected[i] += abs(cosine(after[i], after[j]) - cosine(before[i], before[j]))
    found = information_volume.cosine_change(before, after, block=block)
    np.testing.assert_allclose(found, expected / (items - 1), atol=2e-6)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a.astype(float)) * np.linalg.norm(b.astype(float))
    return float(a.astype(float) @ b.astype(float) / lengths) if lengths else 0.0


def test_what_only_grows_does_not_change() -> None:
    items = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    change = information_volume.cosine_change(items, 3 * items)
    np.testing.assert_allclose(change, 0, atol=1e-6)


def test_tenths_by_hand() -> None:
    groups = information_volume.tenths(np.array([3, 9, 0, 3, 5]), groups=2)
    assert [group.tolist() for group in groups] == [[1, 4, 0], [3, 2]]


def test_rows_of_a_volume_by_hand() -> None:
    """Two groups of 2 and 1 items, three rounds: the first apart, 'kept' is net over path."""
    volume = information_volume.Volume(
        np.array([[0.9, 0.1, 0.2], [0.6, 0.4, 0.5]]), np.array([0.15, 0.45]), 2_000.0
    )
    groups, counts = [np.array([0, 1]), np.array([2])], np.array([4, 3, 1])
    everything, top, rest = information_volume._rows("fedmf", volume, groups, counts)
    assert everything["kB a round"] == pytest.approx(2)
    assert everything["round 1"] == pytest.approx(1e3 * (2 * 0.9 + 0.6) / 3)
    assert everything["later"] == pytest.approx(1e3 * (2 * 0.15 + 0.45) / 3)
    assert top["% of clicks"] == pytest.approx(87.5)
    assert top["kept %"] == pytest.approx(50)
    assert rest["rounds 2–3"] == pytest.approx(450)
    assert rest["net"] == pytest.approx(450)


def test_nothing_that_moves_is_nothing_to_draw() -> None:
    still = information_volume.Volume(np.zeros((2, 3)), np.zeros(2), 1.0)
    with pytest.raises(harness.InputError, match="nothing to draw"):
        information_volume.draw({"fedmf": still})


def test_what_is_lost_is_lost_against_the_same_seed() -> None:
    clean = [{"Recall@10": 10.0}, {"Recall@10": 20.0}]
    noisy = [{"Recall@10": 9.0}, {"Recall@10": 10.0}]
    found = robustness._lost(noisy, clean, "Recall")
    assert found["Recall lost %"] == pytest.approx(30)
    assert found["± Recall lost %"] == pytest.approx(np.std([10, 50], ddof=1))
    nothing = [{"Recall@10": 0.0}, {"Recall@10": 20.0}]
    assert set(robustness._lost(noisy, nothing, "Recall").values()) == {None}


def rows_by_hand() -> list[dict]:
    levels = [(0.0, 20.0, 0.0), (5.0, 15.0, 25.0)]
    common = {"± Recall@10": None, "± Recall lost %": None}
    lines = [
        {"method": "FedMF", "δ": level, "Recall@10": recall, "Recall lost %": lost, **common}
        for level, recall, lost in levels
    ]
    alone = {"method": "popularity", "δ": 0.0, "Recall@10": 9.0, "Recall lost %": 0.0, **common}
    return [*lines, alone]


def test_the_figure_has_every_line_and_a_level_one_for_what_noise_does_not_reach() -> None:
    recall, share = robustness.draw(rows_by_hand(), "δ", "noise").axes
    assert recall.get_legend_handles_labels()[1] == ["popularity", "FedMF"]
    (kept,) = [c.lines[0] for c in share.containers]
    assert kept.get_xdata().tolist() == [0, 5]
    assert kept.get_ydata().tolist() == [100, 75]
    assert 9 in {line.get_ydata()[0] for line in recall.lines}
    with pytest.raises(harness.InputError, match="nothing to draw"):
        robustness.draw([], "δ", "noise")


def test_every_setting_has_its_folder_and_studies_share_their_clean_runs(
    tmp_path, monkeypatch
) -> None:
    """What a folder holds is gone on with, so what decides a run's numbers must name it."""
    folders = []

    def train(method, problem, stages, *, out, **_):
        folders.append(out)

    toy = harness.Options(toy=True)
    figures = dict.fromkeys(robustness._COLUMNS, 50.0)
    for script in (robustness, ratio_runs):
        monkeypatch.setattr(script, "dataset", lambda name, _: harness.dataset(name, toy))
    monkeypatch.setattr(staged, "train", train)
    monkeypatch.setattr(staged, "figures", lambda result: figures)

    def made(study, options, **choices):
        folders.clear()
        where = {"results": tmp_path, "runs": tmp_path / "runs"}
        study.run(options(**where, **{"seeds": (0, 1), "dim": 4} | choices))
        return list(folders)

    clicks = {"fractions": (0.1, 0.5), "methods": ("fedmf",)}
    first = made(click_noise, click_noise.ClickNoiseOptions, **clicks)
    assert len(set(first)) == 6  # two seeds at three levels
    assert all(folder.parent == tmp_path / "runs" for folder in first)
    assert made(click_noise, click_noise.ClickNoiseOptions, **clicks) == first
    longer = made(click_noise, click_noise.ClickNoiseOptions, **clicks, rounds=200)
    assert longer == first  # a longer run goes on from a shorter one
    wider = made(click_noise, click_noise.ClickNoiseOptions, **clicks, dim=8)
    assert not set(wider) & set(first)
    other = made(ldp, ldp.LDPOptions, scales=(0.1,), lines=("fedmf",))
    assert other[:2] == first[:2]  # without noise, both studies are one
    assert not set(other[2:]) & set(first)
    # So is the run of any other script with these settings.
    folders.clear()
    options = ratio_runs.RatioOptions(runs=tmp_path / "runs", seeds=(0, 1), dim=4)
    ratio_runs.measure("fedmf", robustness.FEDERATION, options)
    assert folders == first[:2]


def test_noise_goes_where_the_lines_say() -> None:
    problem = robustness.federation(ldp.LDPOptions(toy=True), 0)

    def config(line: str, scale: float):
        chosen = ldp.LINES[line]
        build = robustness.ratio_settings.build
        options = chosen.options(scale)
        return build(
            chosen.method, robustness.FEDERATION, problem.dataset, dim=4, toy=True, **options
        ).config

    assert config("fedmf", 0.04).laplace == 0.04
    assert (config("rqfedrec", 0.04).noise, config("rqfedrec", 0.04).laplace) == (0.04, None)
    assert (config("rqfedrec-upload", 0.04).noise, config("rqfedrec-upload", 0.04).laplace) == (
        0,
        0.04,
    )
    assert config("rqfedrec-upload", 0.0) == config("rqfedrec", 0.0)
    assert config("fedmf", 0.0).laplace is None


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch) -> None:
    calls = []

    def measure(method, problem, seed, options):
        calls.append((method.name, seed))
        return information_volume.Volume(np.full((10, 3), 0.5), np.full(10, 0.2), 8.0)

    toy = harness.Options(toy=True)
    monkeypatch.setattr(robustness, "dataset", lambda name, _: harness.dataset(name, toy))
    monkeypatch.setattr(information_volume, "_measure", measure)
    common = {"results": tmp_path, "parts": tmp_path / "parts", "methods": ("fedmf",)}
    options = information_volume.VolumeOptions(**common, rounds=3, seeds=(0, 1))
    first = information_volume.run(options).rows
    assert information_volume.run(options).rows == first
    assert calls == [("fedmf", 0), ("fedmf", 1)]
    information_volume.run(information_volume.VolumeOptions(**common, rounds=3, dim=8))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("script", "options", "wrong", "message"),
    [
        (click_noise, click_noise.ClickNoiseOptions, {"fractions": ()}, r"--fractions \(none\)"),
        (click_noise, click_noise.ClickNoiseOptions, {"fractions": (0.2, 0.1)}, "ascending"),
        (click_noise, click_noise.ClickNoiseOptions, {"fractions": (0.0, 0.1)}, "above 0"),
        (click_noise, click_noise.ClickNoiseOptions, {"fractions": (1.5,)}, "at most 1"),
        (click_noise, click_noise.ClickNoiseOptions, {"methods": ("pfedrec",)}, "choose from"),
        (ldp, ldp.LDPOptions, {"scales": (float("nan"),)}, "--scales nan"),
        (ldp, ldp.LDPOptions, {"scales": (float("inf"),)}, "--scales inf"),
        (ldp, ldp.LDPOptions, {"lines": ("local",)}, "--lines local: choose from fedmf, "),
        (ldp, ldp.LDPOptions, {"seeds": ()}, "--seeds"),
        (ldp, ldp.LDPOptions, {"seeds": (1, 1)}, "--seeds 1 1"),
        (
            information_volume,
            information_volume.VolumeOptions,
            {"seeds": ()},
            "--seeds: give at least one",
        ),
        (
            information_volume,
            information_volume.VolumeOptions,
            {"methods": ("popularity",)},
            "--methods popularity: choose from fedmf, rqfedrec",
        ),
        (
            information_volume,
            information_volume.VolumeOptions,
            {"rounds": 1},
            "--rounds 1 must be 2 or more",
        ),
    ],
)
def test_refused_before_anything_is_trained(
    tmp_path, monkeypatch, script, options, wrong, message
) -> None:
    def train(*_, **__):
        pytest.fail("trained")

    monkeypatch.setattr(staged, "train", train)
    monkeypatch.setattr(information_volume, "_measure", train)
    with pytest.raises(harness.InputError, match=message):
        script.run(options(toy=True, results=tmp_path, **wrong))
