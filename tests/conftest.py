"""What tests of several rooms share: JAX's set-up, and the real data where there is any."""

import os
from collections.abc import Iterator
from pathlib import Path

# Most of a small run is compilation. One cache for the whole suite, which commands that tests
# start inherit through the environment; JAX reads it when it is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Programs are compiled fast and run once or twice: most tests ask what is computed, not how well.
# Those that ask how well have the fixture `optimized`; with 0 here, all tests do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Two workers share the machine: threads of OpenMP (t-SNE, k-means) would wait for each other in
# loops that keep a processor busy. Libraries read this when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

# The number of CPU devices is fixed by JAX's first use, so that use is here: a test that asks for
# one device must not leave the tests after it with one.
jax.config.update("jax_num_cpu_devices", 2)
DEVICES = len(jax.devices())


@pytest.fixture(scope="session")
def two_devices() -> int:
    """2, for tests that shard; skips them where JAX has a single accelerator."""
    if DEVICES < 2:
        pytest.skip(
            f"JAX has {DEVICES} device ({jax.devices()[0].platform}): nothing to shard over"
        )
    return 2


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Programs as users run them, for modules that are about what the compiler makes of a formula.

    Rounding differs: optimized code has instructions, such as fused multiply-add, of its own.
    """
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "0")
        jax.config.update(option, False)
        yield
        jax.config.update(option, before)
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real datasets; skips the test, with the reason, where there is none."""
    root = os.environ.get("FEDJAX_REC_DATA")
    if not root:
        pytest.skip("FEDJAX_REC_DATA is not set: no real data")
    path = Path(root).resolve()
    if not path.is_dir():
        pytest.skip(f"FEDJAX_REC_DATA={root} is no folder: no real data")
    return path
