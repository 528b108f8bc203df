"""What several test files share: the tiny run's prepared dataset, made once a session; compiled programs."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Most of the suite's time is XLA's. Commands that tests run as subprocesses compile the same programs,
# so they share a cache, new every session. Set before anything imports jax.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the first of pytest's processes; its workers inherit it
    _COMPILED = tempfile.mkdtemp(prefix="jaxrec-tests-")
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def tiny_config():
    from jaxrec.command import load_config

    return load_config(str(ROOT / "configs/tiny.py"))


@pytest.fixture(scope="session")
def tiny_directory(tiny_config, tmp_path_factory):
    from jaxrec.data.dataset import prepare
    from jaxrec.sources import open_source

    directory = tmp_path_factory.mktemp("data") / "tiny"
    prepare(open_source(tiny_config.source, tiny_config.features), tiny_config, str(directory))
    return directory


@pytest.fixture(scope="session")
def tiny(tiny_directory):
    from jaxrec.data.store import Dataset

    return Dataset(tiny_directory)


@pytest.fixture(scope="module", autouse=True)
def _programs_let_go():
    """Each file's programs go with it: a worker kept them all, 5 GB, and hundreds end in XLA's segfault."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def _quick_to_compile():
    """For programs that run a step or two: most of their time is XLA's."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
