"""Share fixtures that are made once a session: the tiny dataset, its trained run, compiled programs."""

import contextlib
import copy
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

# Most of the suite's time is XLA's, for programs that take a few steps of a small model: they are compiled as
# fast as they can be, here and in the commands that tests run as subprocesses. XLA's passes over operations
# stay; what goes is LLVM's over machine code, and fused kernels from MLIR. As a user has them they are in the
# tests that use `as_compiled_for_users`. Set before anything imports jax.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
_QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10.") and _QUICK not in os.environ.get("XLA_FLAGS", ""):
    # Another jaxlib may not have these flags, and then ends the process.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()

# Tests, and the commands that they run as subprocesses, compile the same programs in every session, so they
# share a cache that is kept. The key of a program covers its operations and the versions and flags of the
# compiler. A program that no session has read or written for a week is deleted.
_KEPT_SECONDS = 7 * 86_400
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the first of pytest's processes; its workers inherit it
    _COMPILED = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxrec/tests"
    _COMPILED.mkdir(parents=True, exist_ok=True)
    for _program in _COMPILED.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another session may delete it too
            _times = _program.stat()
            if max(_times.st_atime, _times.st_mtime) < time.time() - _KEPT_SECONDS:
                _program.unlink()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED)
    # All of them: operations outside of jit are half of the programs, and are read sooner than compiled.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


_WORKER_BYTES = 5 << 30


def pytest_xdist_auto_num_workers(config):
    """Return the workers of `-n auto`: a core each, as far as the memory goes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _WORKER_BYTES))


def pytest_configure(config):
    """Assign files to xdist's workers in their order, end_to_end early.

    The order of xdist is by the number of tests: files of few long tests would come last, for one worker
    while the other waits.
    """
    config.option.loadscopereorder = False
    # Tracing makes millions of objects that live as long as their program: the default thresholds spent a
    # tenth of the suite's time looking for garbage among them.
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session")
def small_config():
    """tests/end_to_end/small.py: the tiny config with one expert, one task and few features."""
    from jaxrec.config.loading import load_config

    return load_config(str(ROOT / "tests/end_to_end/small.py"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return `once(name, make)`: the folder `name`, made by `make(folder)` in the first worker that needs it.

    All workers of xdist share the folder. Tests only read it; a test that writes there copies it first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def folder_of(name, make):
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or its process ends
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def tiny_config():
    from jaxrec.config.loading import load_config

    return load_config(str(ROOT / "configs/tiny.py"))


@pytest.fixture(scope="session")
def tiny_directory(tiny_config, once):
    from jaxrec.data.runners.local import prepare
    from jaxrec.sources import open_source

    def make(folder):
        prepare(open_source(tiny_config.source, tiny_config.features), tiny_config, str(folder))

    return once("tiny", make)


# What the trained run's process had imported when it ended, one module a line.
_MODULES = """
import atexit, pathlib, runpy, sys
modules = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: modules.write_text("\\n".join(sys.modules)))
runpy.run_module("jaxrec.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def tiny_run(tiny_directory, once):
    """A folder with `run`, the workdir of `python -m jaxrec.train --config configs/tiny.py` on the tiny
    dataset; `stdout`, what it printed; and `modules`, what it had imported at its end."""

    def make(folder):
        folder.mkdir()
        command = [
            sys.executable, "-c", _MODULES, folder / "modules", "--config", "configs/tiny.py",
            "--workdir", folder / "run", f"--config.data.directory={tiny_directory}",
        ]  # fmt: skip
        env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "stdout").write_text(done.stdout)

    return once("tiny-run", make)


@pytest.fixture(scope="session")
def recommender_of_checkpoint(tiny_run):
    """The recommender of the tiny run's best checkpoint, without a correction."""
    import numpy as np

    from jaxrec.models.outputs import Correction
    from jaxrec.serving.recommender import Recommender
    from jaxrec.tasks.loading import load_checkpoint

    loaded = load_checkpoint(tiny_run / "run", "best")
    log_q = np.zeros(loaded.task.layout.num_titles, np.float32)
    return Recommender(loaded, Correction("ctr", 1.0, log_q))


@pytest.fixture(scope="session")
def export_folder(recommender_of_checkpoint, once):
    """An export of the tiny run."""
    from jaxrec.serving import export

    return once("served-export", lambda folder: export.write(recommender_of_checkpoint, folder, ("cpu",), 20))


@pytest.fixture(scope="session")
def tiny(tiny_directory):
    from jaxrec.data.storage.dataset import Dataset

    return Dataset(tiny_directory)


@pytest.fixture(scope="session")
def served_config(tiny_config):
    """The tiny config with served titles; half of the slates are logged, all of the test-only users'."""
    from jaxrec.config import Signal

    config = copy.deepcopy(tiny_config)
    config.signals, config.data.served = (Signal("impression"),), 20
    config.source.impressions_logged, config.source.test_impressions_logged = 0.5, 1.0
    return config


@pytest.fixture(scope="session")
def served(served_config, once):
    """The dataset of `served_config`."""
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.dataset import Dataset

    return Dataset(once("served", lambda folder: ensure_dataset(served_config, folder)))


@pytest.fixture(scope="session")
def session_config(tiny_config):
    """The tiny config with sessions of plays, trailers and thumbs, which an expert of the session reads."""
    from jaxrec.config import Expert, Signal

    config = copy.deepcopy(tiny_config)
    config.signals = (Signal("trailer", "seconds"), Signal("thumb", "sign"))
    config.source.trailers, config.source.thumbs = 1.5, 0.5
    config.data.session = 12
    config.model.experts = (config.model.experts[1], Expert(12, 1, 2, 2.0, 0.1, "session"))
    return config


@pytest.fixture(scope="session")
def sessions(session_config, once):
    """The dataset of `session_config`."""
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.dataset import Dataset

    return Dataset(once("sessions", lambda folder: ensure_dataset(session_config, folder)))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """ "s3://bucket", empty: behind it tests/bucket.py. Nothing may be written to a folder named "s3:"."""
    from bucket import FOLDER, Bucket, register

    register()
    monkeypatch.setenv(FOLDER, str(tmp_path / "buckets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Bucket, "log", [])
    monkeypatch.chdir(tmp_path)
    yield "s3://bucket"
    assert not list(tmp_path.glob("*:")), "a remote path was taken for a local one"


@pytest.fixture(scope="module", autouse=True)
def _programs_let_go():
    """Each file's programs go with it: a worker kept them all, 5 GB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _log_level_kept():
    """The level of absl's log after a file is that before it: commands and quiet tests set it."""
    from absl import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def as_compiled_for_users():
    """The environment of a command, without what makes this suite's programs quick to compile."""
    kept = {key: value for key, value in os.environ.items() if key != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    return kept | {"XLA_FLAGS": kept.get("XLA_FLAGS", "").replace(_QUICK, "")}
