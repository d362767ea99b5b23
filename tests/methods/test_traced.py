"""Rates and weights as arguments: one program for all of their values, and the right values."""

import dataclasses
from typing import Any, ClassVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import methods
from fedjax_rec.methods import Method
from fedjax_rec.methods.traced import arguments_of, taking_arguments, traced
from fedjax_rec.simulation.programs import Programs
from tests.methods.test_contract import tiny
from tests.problems import small
from tests.simulation.runs import USERS, assert_same_run, make_engine, run_engine


@dataclasses.dataclass(frozen=True)
class Base:
    lr: float = 0.5
    decay: float = 0.0

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("lr", "decay")

    def doubled(self) -> Any:
        return 2 * self.lr


@dataclasses.dataclass(frozen=True)
class Options(Base):
    weight: float | None = 3.0
    steps: int = 2

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("weight",)


def test_numbers_of_a_class_and_of_its_bases() -> None:
    found = arguments_of(Options())
    assert found == {"weight": 3.0, "lr": 0.5}  # no decay, so no term to compute
    assert {x.dtype for x in found.values()} == {np.dtype("float32")}
    assert arguments_of(Options(decay=0.1, weight=None)) == {"lr": 0.5, "decay": np.float32(0.1)}
    assert arguments_of(None) == {}


def test_in_a_program_and_outside() -> None:
    options, others = Options(), Options()

    def function(x):
        found, strange = traced(options), traced(others)
        assert strange is others  # equal, but not the program's
        assert (found.steps, found.decay) == (2, 0.0)
        return found.doubled() * x + strange.lr

    program = jax.jit(taking_arguments(options, function))
    for lr in (0.5, 0.25):
        assert program({"lr": jnp.float32(lr)}, 10.0) == 20 * lr + 0.5
    assert program._cache_size() == 1
    assert traced(options) is options


def test_an_error_while_tracing_leaves_nothing_behind() -> None:
    options = Options()

    def function():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taking_arguments(options, function)({"lr": jnp.float32(1)})
    assert traced(options) is options


class Lowered(Exception):
    """All programs of a round are there."""


def _programs(method: Method) -> dict[Any, str]:
    """The programs of the method's first round, as they go to XLA."""
    texts = {}

    def lower(self, name, arguments):
        texts[name] = self._lower(name, arguments, self._widths).as_text()

    def call(self, name):
        raise Lowered

    engine = make_engine(method, small(USERS), chunk=1)
    state = engine.initial_state()
    with (
        mock.patch.object(Programs, "_compile", lower),
        mock.patch.object(Programs, "__getitem__", call),
        pytest.raises(Lowered),
    ):
        engine.run_round(state, 1, evaluate=True)
    return texts


def _halved(method: Method) -> dict[str, float]:
    """Half of each number that its programs take as an argument."""
    return {name: float(value) / 2 for name, value in arguments_of(method.config).items()}


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_other_numbers_need_no_other_program(name: str) -> None:
    """All that an options class lists is used by way of ``traced``: none is left as a constant."""
    method = tiny(name)
    other = tiny(name, **_halved(method))
    assert arguments_of(other.config).keys() == arguments_of(method.config).keys()
    assert _programs(other) == _programs(method)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedrap", {"weight_decay": 0.01}),
        ("gpfedrec", {}),
        ("fedcia", {"weight_decay": 0.01, "lr": 0.02}),
        ("fedmf", {"weight_decay": 0.01, "optimizer": "sgd", "lr": 0.3}),
        ("cgfedrec", {"contrast_weight": 0.3}),
    ],
)
def test_arguments_are_worth_what_constants_are(name: str, options: dict[str, Any]) -> None:
    method, problem = tiny(name, **options), small(USERS)
    found = run_engine(make_engine(method, problem, chunk=1))
    with mock.patch("fedjax_rec.simulation.programs.arguments_of", return_value={}):
        constants = run_engine(make_engine(method, problem, chunk=1))
    assert_same_run(found, constants)
    halved = run_engine(make_engine(tiny(name, **{**options, **_halved(method)}), problem, chunk=1))
    assert found[2][-1].train_loss != halved[2][-1].train_loss
