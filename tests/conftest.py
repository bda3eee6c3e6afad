"""What every test shares: how it compiles, one compilation cache, hypothesis profiles, and the shared media."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import plain_code, shapes_once
from tests.fake_devices import FakeDevices

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports jax. Tests state exact tolerances, so they run on CPU even where an accelerator is at hand.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# JAX_DISABLE_MOST_OPTIMIZATIONS=0 has everything compiled as users have it (`make test-all` does). Workers of xdist
# have it from the process that starts them.
CHOOSES = os.environ.setdefault(plain_code.PLAIN_CODE, "1") != "0"
if CHOOSES:
    plain_code.begin()

# JAX decides the speed of an example (its first call compiles), so no example has a deadline.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# Collecting tests and tracing models make millions of objects, nearly all of which stay or go without the collector:
# it took a third of the first and a sixth of the second.
gc.set_threshold(50_000, 10, 10)


def pytest_configure(config: pytest.Config) -> None:
    """Gives this run's workers and the programs they start one compilation cache, so that each step compiles once."""
    # A shell that starts tests in the background has SIGINT ignored, which tests of Ctrl-C and their programs inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="mmduplex-jax-cache-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        if "jax" in sys.modules:  # imported by the conftest of a folder that was asked for
            import jax

            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has the garbage collector pass by what stays: modules, and 5,000 tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test, which compile too
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Has a test's code optimised where it is marked so."""
    if CHOOSES:
        plain_code.choose(plain=item.get_closest_marker("optimized") is None)
    shapes_once.begin()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return ROOT


@pytest.fixture(scope="session")
def eight_devices() -> Iterator[FakeDevices]:
    """Eight fake devices in a process that runs programs of tests."""
    devices = FakeDevices()
    yield devices
    devices.close()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the checkout, with real media, captions and tokenizers; skips where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository: this test needs its real files")
    return folder


@pytest.fixture(scope="session")
def media_dir(shared_dir: Path) -> Path:
    """The real video clips, described by the folder's `manifest.json`."""
    folder = shared_dir / "media"
    if not folder.is_dir():
        pytest.skip("no folder `media` in `shared`: this test needs real clips")
    return folder
