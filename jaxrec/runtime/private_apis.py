"""Private APIs of jax and Orbax, each behind a function that imports it.

A release of jax or Orbax may remove any of the APIs. tests/runtime/test_private_apis.py tests each function
and names a replacement.
"""

from types import ModuleType
from typing import Any


def wait_at_barrier(name: str, milliseconds: int) -> None:
    """Wait until every process of `jax.distributed` has reached the barrier `name`.

    The public `multihost_utils.sync_global_devices` is a collective, for which gloo gives up after 30 s.

    Args:
        name: Name of the barrier, the same on every process.
        milliseconds: Time limit.

    Raises:
        Exception: The time limit has passed, or a process was lost; an error of the runtime of jax.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    assert client is not None, "jax.distributed.initialize was not called"
    client.wait_at_barrier(name, milliseconds)


def compiled_programs(jitted: Any) -> int:
    """Return the number of compiled programs of a function of `jax.jit`."""
    return jitted._cache_size()


def live_jaxpr(jaxpr: Any) -> Any:
    """Return a jaxpr without the operations that reach no output, for comparisons of programs in tests."""
    from jax.interpreters import partial_eval

    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def jaxpr_types() -> tuple[type, type]:
    """Return the types of a closed jaxpr and of a jaxpr."""
    from jax.extend import core

    return core.ClosedJaxpr, core.Jaxpr


def gcs_utils() -> ModuleType:
    """Return the module of Orbax that queries Google for the layout of a bucket."""
    from orbax.checkpoint._src.path import gcs_utils

    return gcs_utils
