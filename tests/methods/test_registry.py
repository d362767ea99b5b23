"""``methods.build``: defaults of the papers, and one clear line for every wrong option."""

import jax
import pytest

from fedjax_rec import methods
from fedjax_rec.errors import InputError
from tests.problems import small


def test_defaults_are_the_reference_hyper_parameters() -> None:
    config = methods.cgfedrec().config
    assert (config.clusters, config.contrast_weight) == (60, 0.005)
    assert (config.temperature, config.base_temperature) == (0.1, 0.5)
    assert (config.local_epochs, config.dim, config.init_std) == (2, 32, 1.0)
    assert (config.optimizer, config.lr, config.item_lr_scale) == ("sgd", 0.1, 80.0)
    assert (config.batch_size, config.negatives) == (256, 4)
    assert methods.pfedrec().config.local_epochs == 1
    assert methods.local().config.local_epochs == 2


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_method_has_a_documented_function_of_its_name(name) -> None:
    function = getattr(methods, name.replace("-", "_"))
    assert function().name == name == function.__name__.replace("_", "-")
    assert function().config == methods.REGISTRY[name].config()
    assert "Args:" in function.__doc__


WRONG = [
    ("pfedrek", {}, "pfedrek.*pfedrec"),
    ("pfedrec", {"dims": 3}, "dims= is no option of pfedrec.*dim"),
    ("popularity", {"dim": 3}, "dim= is no option of popularity.*takes none"),
    *(
        ("pfedrec", {name: 0}, f"{name}=0 must be at least 1")
        for name in ("dim", "batch_size", "negatives", "local_epochs")
    ),
    *(
        ("fedmf", {name: value}, f"{name}={value} must be a finite number")
        for name in ("lr", "item_lr_scale", "init_std")
        for value in (-1.0, float("nan"), float("inf"))
    ),
    ("local", {"optimizer": "rmsprop"}, "optimizer='rmsprop' .*'sgd' or 'adam'"),
    ("cgfedrec", {"clusters": 0}, "clusters=0 must be at least 1"),
    ("cgfedrec", {"contrast_weight": -1.0}, "contrast_weight=-1.0 must be 0 or more"),
    ("cgfedrec", {"temperature": 0.01}, "temperature=0.01 is too small for float32.*0.03"),
    ("cgfedrec", {"base_temperature": 0.0}, "base_temperature=0.0 must be positive"),
    ("cgfedrec", {"anchors": "none"}, "anchors='none'.*'all' or 'positive'"),
    ("cgfedrec", {"clustering": "dbscan"}, "clustering='dbscan'.*'leiden'"),
    ("cgfedrec", {"similarity_threshold": 0.0}, "similarity_threshold=0.0 must be above 0"),
    ("cgfedrec", {"bits": 0}, "bits=0"),
    ("pfedrec", {"clip": 0.0}, "clip=0.0"),
    ("pfedrec", {"laplace": -1.0}, "laplace=-1.0"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options(name, options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        methods.build(name, **options)
    assert "\n" not in str(error.value)


def test_more_clusters_than_items() -> None:
    method = methods.cgfedrec(clusters=41)
    with pytest.raises(InputError, match=r"clusters=41 is more than the 40 items .* at most 40"):
        method.init(jax.random.key(0), small())
    methods.cgfedrec(clusters=41, clustering="leiden").init(jax.random.key(0), small())


@pytest.mark.parametrize("name", methods.PRESETS)
def test_presets_are_options_of_their_method(name) -> None:
    for preset, settings in methods.PRESETS[name].items():
        config = methods.build(name, preset=preset).config
        assert {key: getattr(config, key) for key in settings} == dict(settings)
        assert methods.build(name, preset=preset, dim=7).config.dim == 7


def test_unknown_presets() -> None:
    with pytest.raises(InputError, match=r"preset='leakfree' is unknown .*did you mean leak-free"):
        methods.alignfedrec(preset="leakfree")
    with pytest.raises(InputError, match="popularity has no presets"):
        methods.popularity(preset="leak-free")
