"""What tests of several rooms share: JAX's set-up, and the real data where there is any."""

import os
from pathlib import Path

import jaxlib.version

# Most of a small run is compilation. One cache for the whole suite, which commands that tests
# start inherit through the environment; JAX reads it when it is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Programs are compiled fast and run once or twice: most tests ask what is computed, not how well.
# With 0 here they are compiled as users' programs are, and so are those marked `compiler` by
# `make test-slow`. XLA's newer emitters of CPU code take a third of a test's time; an option that
# an XLA does not know ends the process, so only those that were looked at get it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_AS_USERS = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"].lower() in ("0", "false", "off", "no")
if not _AS_USERS and (0, 8) <= jaxlib.version.__version_info__[:2] <= (0, 11):
    _EMITTERS = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), _EMITTERS]))

# Two workers share the machine: threads of OpenMP (t-SNE, k-means) would wait for each other in
# loops that keep a processor busy. Libraries read this when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402

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
