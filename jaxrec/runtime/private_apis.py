"""Private APIs of jax and Orbax: every use of one is a function here, which imports inside.

A release may remove any of these. tests/test_private_apis.py calls each and gives its replacement.
"""

from types import ModuleType
from typing import Any


def wait_at_barrier(name: str, milliseconds: int) -> None:
    """Wait until every process of `jax.distributed` is at the barrier `name`.

    `multihost_utils.sync_global_devices` is public, but is a collective: gloo gives up after 30 s.
    """
    from jax._src import distributed

    client = distributed.global_state.client
    assert client is not None, "jax.distributed.initialize was not called"
    client.wait_at_barrier(name, milliseconds)


def compiled_programs(jitted: Any) -> int:
    """Return how many programs a function of `jax.jit` was compiled to."""
    return jitted._cache_size()


def jaxpr_types() -> tuple[type, type]:
    """Return the types of a closed jaxpr and of a jaxpr."""
    from jax.extend import core

    return core.ClosedJaxpr, core.Jaxpr


def gcs_utils() -> ModuleType:
    """Return Orbax's module that asks Google whether a bucket has folders."""
    from orbax.checkpoint._src.path import gcs_utils

    return gcs_utils
