"""A device that is too small: fewer clients side by side, said once, and the same numbers."""

import jax
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import TrainingError
from fedjax_rec.simulation.programs import SERVER, Programs
from tests.problems import small

FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


@pytest.fixture
def room_for_two(monkeypatch):
    """Widths of 8 are chosen; more than 2 fail when they are compiled or when they run."""
    compiled = Programs._lower
    choose = Programs._choose_width

    def eight(self, kind, arguments):
        return 8 if self._chunk == "auto" else choose(self, kind, arguments)

    monkeypatch.setattr(Programs, "_choose_width", eight)

    def lower(self, name, arguments, widths):
        if name != SERVER and widths[name[1]] > 4:
            raise FULL
        lowered = compiled(self, name, arguments, widths)
        if name == SERVER or widths[name[1]] <= 2:
            return lowered

        class Failing:
            def compile(self):
                def program(*arguments):
                    raise FULL

                return program

        return Failing()

    monkeypatch.setattr(Programs, "_lower", lower)


def run(**options):
    return fedjax_rec.simulate(
        methods.pfedrec(dim=4), small(), rounds=2, devices=1, progress=False, **options
    )


def test_half_as_many_until_it_fits(room_for_two) -> None:
    result = run()
    plain = run(chunk=2)
    said = [text for text in result.summary["warnings"] if "out of device memory" in text]
    assert "with 8 clients side by side: 4 from now on" in said[0]
    assert "with 4 clients side by side: 2 from now on" in said[1]
    assert len(said) == 2
    np.testing.assert_allclose(result.history["train_loss"], plain.history["train_loss"], rtol=1e-6)


def test_a_width_that_was_asked_for_is_not_changed(monkeypatch) -> None:
    compiled = Programs._lower

    def no_room(self, name, arguments, widths):
        if name == SERVER:
            return compiled(self, name, arguments, widths)
        raise FULL

    monkeypatch.setattr(Programs, "_lower", no_room)
    with pytest.raises(TrainingError, match="with 6 clients side by side: use --chunk 3"):
        run(chunk=6)
    with pytest.raises(TrainingError, match="with 1 clients side by side: use --state host"):
        run(chunk=1)


def test_other_errors_are_no_lack_of_memory(monkeypatch) -> None:
    def broken(self, name, arguments, widths):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Programs, "_lower", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run()
