"""Compiled programs: kept on disk between commands, compiled in other threads, and freed.

The cache directory is JAX_COMPILATION_CACHE_DIR if that variable is set, otherwise `jaxrec/xla` under
XDG_CACHE_HOME or ~/.cache. JAX_ENABLE_COMPILATION_CACHE=false disables both reading and writing. The key of
a program covers everything the program depends on: its operations, the version of jax, the flags of XLA,
the kind of device and the features of the processor. Several runs and machines can therefore share the
directory, and it can be deleted at any time.
"""

import gc
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from jaxrec.core.paths import cache_folder

# The default of jax is 1 second, which excludes the initial state and the evaluation of small models.
_MIN_COMPILE_SECONDS = 0.1
_MAPS, _MOST_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")  # of Linux


def cache_directory() -> Path:
    """Return the cache directory used when JAX_COMPILATION_CACHE_DIR is unset."""
    return cache_folder("xla")


def enable() -> None:
    """Enable the persistent compilation cache.

    Call this function before the first program is compiled. If the directory cannot be created, a warning
    is logged and every program is compiled as usual.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    if jax.config.values["jax_compilation_cache_dir"] is None:
        directory = cache_directory()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logging.warning("compiled programs are not cached: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(directory))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)


def free_programs() -> bool:
    """Free the compiled programs of this process where they may hold more than half of its memory maps.

    XLA maps the kernels of a program for a CPU one by one, and jax keeps all programs. A training of
    configs/tiny.py leaves 1,800 to 3,300 maps, so that some 25 trainings in one process reached the limit of
    Linux (vm.max_map_count, 65,530), at which XLA ends in a segmentation fault. A freed program is compiled
    again where it is called.

    Returns:
        True if programs were freed. False with few maps, or where the system does not count them.
    """
    try:
        with _MAPS.open("rb") as maps:
            count = sum(1 for _ in maps)
        most = int(_MOST_MAPS.read_text())
    except OSError:
        return False
    if 2 * count <= most:
        return False
    logging.info("compiled programs are freed: %d of %d memory maps of the process are in use", count, most)
    jax.clear_caches()
    gc.collect()
    return True


def submit(executor: Executor, call: Callable[[], Any]) -> Future:
    """Run `call` in another thread with the float precision of this thread.

    A test may have enabled float64 in its own thread only.
    """
    is_float64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def call_with_precision() -> Any:
        with jax.enable_x64(is_float64):
            return call()

    return executor.submit(call_with_precision)
