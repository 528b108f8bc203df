"""Kernels of our own, written in Pallas for its Triton compiler: where they can be had, and how one is run.

That compiler is deprecated in jax 0.11 and will go: where it is not there, nor a GPU that it knows, XLA
compiles the plain form of the same function.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax

DTYPES = ("float32", "bfloat16")
_OLDEST = 8.0  # compute capability of an NVIDIA GPU: Ampere's


def is_available(backend: str, dtype: str) -> bool:
    """Whether on this process's devices, if they are of `backend`, for compute in `dtype`."""
    if backend != "gpu" or dtype not in DTYPES or not _is_there():
        return False
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return not capability.replace(".", "", 1).isdecimal() or float(capability) >= _OLDEST


def _is_there() -> bool:
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def pallas_call(
    kernel: Callable[..., None], name: str, grid: tuple[int, ...], warps: int,
    out: list[jax.ShapeDtypeStruct], *given: jax.Array,
) -> list[jax.Array]:  # fmt: skip
    """What `kernel(*references to given, *references to out)` writes, once for each place of the grid; on a
    CPU it is interpreted, for tests."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    return pallas.pallas_call(
        kernel,
        grid=grid,
        out_shape=out,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=jax.default_backend() == "cpu",
        name=name,
    )(*given)


def power_of_two(n: int) -> int:
    """The least that is not below n, of at least 1: every size inside a kernel is one."""
    return 1 << (n - 1).bit_length()


def number(axis: int) -> jax.Array:
    """Which place of the grid along `axis`; inside a kernel."""
    from jax.experimental import pallas

    return pallas.program_id(axis)


def load(reference: Any, at: Any, mask: jax.Array) -> jax.Array:
    """What lies `at` these places, 0 where not `mask`; inside a kernel."""
    from jax.experimental.pallas import triton

    return triton.load(reference.at[at], mask=mask, other=0)


def store(reference: Any, at: Any, x: jax.Array, mask: jax.Array) -> None:
    """Writes x, in the reference's dtype, `at` these places, but where not `mask`; inside a kernel."""
    from jax.experimental.pallas import triton

    triton.store(reference.at[at], x.astype(reference.dtype), mask=mask)
