"""Compiled programs, kept on disk from one command to the next, so that only the first one waits for XLA.

They lie in JAX_COMPILATION_CACHE_DIR where it is set, else in `jaxrec/xla` under XDG_CACHE_HOME or
~/.cache; JAX_ENABLE_COMPILATION_CACHE=false keeps and reads none. A program is found again by all that
it depends on: its operations, jax's version, XLA's flags, the kind of device, a processor's features.
So the folder can be shared by runs and machines, and deleted at any time.
"""

import os
from pathlib import Path

import jax
from absl import logging

from jaxrec.core.paths import cache_folder

# Jax's own is a second, which leaves out the first state and the evaluation of small models.
_LEAST_SECONDS = 0.1


def cache_directory() -> Path:
    """Where programs lie unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    return cache_folder("xla")


def enable() -> None:
    """Reads and keeps compiled programs from here on; call before the first one is compiled.

    Where the folder cannot be made, says so and leaves every program to be compiled.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    if jax.config.values["jax_compilation_cache_dir"] is None:
        where = cache_directory()
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logging.warning("compiled programs are not kept: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(where))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
