"""Every test process hears Ctrl-C, and compiles into one private cache: a program once a session at most."""

import os
import shutil
import signal
import tempfile

import pytest

FLAGS = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before jax is imported: subprocesses of tests, and pytest-xdist's workers, inherit it.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bdf-jax-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Compiling is most of a test's time, and what is compiled runs for a moment only.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true")
    config.stash[FLAGS] = os.environ["XLA_FLAGS"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test before this one added to the flags, as `bdf_jax.load` does, is not for the processes of this one."""
    os.environ["XLA_FLAGS"] = item.config.stash[FLAGS]
