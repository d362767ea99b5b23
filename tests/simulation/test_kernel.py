"""The choice of the losses' kernel through a whole run: what trains with it, records, refusals."""

import json

import jax
import numpy as np
import pytest

import fedjax_rec
from fedjax_rec import methods
from fedjax_rec.errors import InputError
from fedjax_rec.losses.kernel_choice import chosen_kernel, use_kernel
from fedjax_rec.simulation.run import Run
from tests.problems import small
from tests.simulation.runs import make_engine, run_engine

METHOD = {"dim": 4, "local_epochs": 1}
OPTIONS = {"rounds": 1, "progress": False, "report": False}
NO_GPU = pytest.mark.skipif(jax.default_backend() == "gpu", reason="here the kernel runs")


def test_clients_train_alike_with_the_kernel() -> None:
    """Both losses at once, three clients side by side, the kernel as plain JAX."""
    method = methods.alignfedrec(**METHOD, threshold=0.2)
    _, expected, _ = run_engine(make_engine(method, small(), chunk=3), rounds=2)
    with use_kernel("pallas", interpret=True), jax.default_matmul_precision("highest"):
        _, found, _ = run_engine(make_engine(method, small(), chunk=3), rounds=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected
    )
    same = jax.tree.map(np.array_equal, found, expected)
    assert not all(jax.tree.leaves(same))  # another program: it sums in another order


def test_a_run_records_the_kernel_that_it_used(tmp_path) -> None:
    out = tmp_path / "run"
    method = methods.cgfedrec(**METHOD, clusters=3)
    fedjax_rec.simulate(method, small(), out=out, kernel="auto", **OPTIONS)
    path = out / "config.json"
    config = json.loads(path.read_text())
    assert config["run"]["kernel"] == "xla"
    # A run from before there was a choice goes on.
    del config["run"]["kernel"]
    path.write_text(json.dumps(config))
    more = {**OPTIONS, "rounds": 2}
    result = fedjax_rec.simulate(method, small(), out=out, resume=True, kernel="xla", **more)
    assert result.history["round"].max() == 2


@NO_GPU
def test_without_a_gpu_the_kernel_is_refused_before_anything_is_written(tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"needs a GPU .* use --kernel xla") as error:
        fedjax_rec.simulate(
            methods.cgfedrec(**METHOD), small(), out=out, kernel="pallas", **OPTIONS
        )
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_a_run_is_traced_under_its_own_choice(monkeypatch) -> None:
    """What a caller has chosen for itself is none of the run's, and is there again afterwards."""
    seen = []
    begin = Run.begin
    monkeypatch.setattr(Run, "begin", lambda run: (seen.append(chosen_kernel()), begin(run)))
    with use_kernel("pallas", interpret=True):
        fedjax_rec.simulate(methods.popularity(), small(), **OPTIONS)
        assert chosen_kernel().kernel == "pallas"
    assert [choice.kernel for choice in seen] == ["xla"]
