"""The choice of the pairwise pass's form: what it stands for, and that it stays in its context."""

from types import SimpleNamespace

import jax
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.losses import kernel_choice
from fedjax_rec.losses.kernel_choice import Choice, chosen_kernel, resolve_kernel, use_kernel


@pytest.mark.parametrize(
    ("kernel", "platform", "form"),
    [
        ("auto", "cpu", "xla"),
        ("auto", "gpu", "xla"),
        ("xla", "tpu", "xla"),
        ("pallas", "gpu", "pallas"),
        ("native", "cpu", "native"),
    ],
)
def test_what_names_stand_for(kernel, platform, form, monkeypatch) -> None:
    monkeypatch.setattr(kernel_choice, "prepare_native", lambda: None)
    assert resolve_kernel(kernel, SimpleNamespace(platform=platform)) == form


def test_which_gpus_can_run_it() -> None:
    h200 = SimpleNamespace(platform="gpu", device_kind="H200", compute_capability="9.0")
    assert resolve_kernel("pallas", h200) == "pallas"
    t4 = SimpleNamespace(platform="gpu", device_kind="Tesla T4", compute_capability="7.5")
    with pytest.raises(InputError, match=r"8\.0 or newer, Tesla T4 has 7\.5: use --kernel xla"):
        resolve_kernel("pallas", t4)
    assert resolve_kernel("auto", t4) == "xla"


@pytest.mark.parametrize(
    ("kernel", "platform", "names"),
    [
        ("pallas", "cpu", r"needs a GPU \(CUDA\), this device is a CPU: use --kernel xla"),
        ("pallas", "tpu", "this device is a TPU"),
        ("native", "gpu", "the native kernel is for CPUs, this device is a GPU: use --kernel xla"),
        ("triton", "gpu", "kernel='triton' must be 'auto', 'xla', 'pallas' or 'native'"),
    ],
)
def test_what_cannot_be_chosen(kernel, platform, names) -> None:
    with pytest.raises(InputError, match=names) as error:
        resolve_kernel(kernel, SimpleNamespace(platform=platform))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="here the kernel runs")
def test_without_a_gpu_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="use --kernel xla"), use_kernel("pallas"):
        pass
    assert chosen_kernel() == Choice()


def test_a_choice_ends_with_its_context() -> None:
    with use_kernel("pallas", interpret=True):
        assert chosen_kernel() == Choice("pallas", interpret=True)
        with use_kernel("auto"):
            assert chosen_kernel() == Choice()
        assert chosen_kernel().kernel == "pallas"
    assert chosen_kernel() == Choice()


def test_a_choice_ends_with_an_error() -> None:
    with pytest.raises(InputError), use_kernel("pallas", interpret=True):
        raise InputError("any")
    assert chosen_kernel() == Choice()


def test_compiled_functions_do_not_mix_choices() -> None:
    """JAX traces a function once for each choice, and finds each again."""
    traced = []

    @jax.jit
    def function(x):
        traced.append(chosen_kernel().kernel)
        return x

    for _ in range(2):
        function(1.0)
        with use_kernel("pallas", interpret=True):
            function(1.0)
    assert traced == ["xla", "pallas"]
