"""Everything that the scripts about RQFedRec train can be built from the settings."""

import dataclasses

import harness
import pytest
import ratio_settings
import recall_bytes
import rqfedrec_ablations
import rqfedrec_search
from harness import InputError
from ratio_settings import FEDERATIONS, METHODS, build


@pytest.fixture(scope="module")
def data():
    return harness.dataset("any", harness.Options(toy=True))


@pytest.fixture(scope="module")
def without_text(data):
    return dataclasses.replace(data, item_titles=None, item_genres=None)


@pytest.mark.parametrize("federation", FEDERATIONS)
@pytest.mark.parametrize("name", METHODS)
def test_settings_are_options(data, name, federation):
    config = build(name, federation, data, dim=64).config
    if name != "popularity":
        assert config.dim == 64
        expected = {**ratio_settings.SETTINGS[name]}
        expected |= ratio_settings.WHERE.get((name, federation), {})
        assert {key: getattr(config, key) for key in expected} == expected


def test_changes_win_over_settings_and_width(data):
    config = build("fedmf", "ml-100k-ratio", data, dim=64, lr=0.5, item_lr=0.25).config
    assert (config.lr, config.item_lr) == (0.5, 0.25)


def test_every_point_variant_and_trial_can_be_built(data):
    wanted = [("rqfedrec", changes) for _, changes in rqfedrec_ablations.VARIANTS.values()]
    for listed in (recall_bytes.POINTS, rqfedrec_search.SINGLES):
        wanted += [(name, changes) for name, many in listed.items() for changes in many]
    for name, changes in wanted:
        config = build(name, "ml-100k-ratio", data, **{"dim": 64, **changes}).config
        for option, value in changes.items():
            if option != "semantics":
                assert getattr(config, option) == value


def test_no_point_or_trial_is_listed_twice():
    for listed in (recall_bytes.POINTS, rqfedrec_search.SINGLES):
        for many in listed.values():
            assert len({tuple(sorted(changes.items())) for changes in many}) == len(many)


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({}, "semantic"),
        ({"without": "codebooks"}, "codebooks"),
        ({"semantics": "vectors.npz"}, None),
        ({"codebook": "hash"}, None),
    ],
)
def test_items_without_text_have_no_semantic_channel(without_text, changes, without):
    config = build("rqfedrec", "ml-1m-ratio", without_text, dim=8, **changes).config
    assert config.without == without


def test_items_with_text_have_both_channels(data):
    assert build("rqfedrec", "ml-100k-ratio", data, dim=8).config.without is None


def test_the_data_folder_is_filled_in(data, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_DATA", "somewhere")
    method = build("rqfedrec", "ml-100k-ratio", data, dim=8, semantics="$FEDJAX_REC_DATA/a.npz")
    assert method.config.semantics == "somewhere/a.npz"


@pytest.mark.parametrize(
    ("name", "federation"), [("pfedrec", "ml-100k-ratio"), ("fedmf", "ml-100k")]
)
def test_what_is_not_known_is_refused(data, name, federation):
    with pytest.raises(InputError, match="choose from"):
        build(name, federation, data, dim=8)


def test_a_toy_is_cut_down(data):
    config = build("rqfedrec", "ml-1m-ratio", data, dim=512, toy=True).config
    assert config.dim <= 8
    assert config.codewords <= data.num_items
