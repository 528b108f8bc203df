"""Helpers for Pallas kernels: availability, calls, loads and stores.

Kernels are written in Pallas for its Triton compiler. That compiler is deprecated in jax 0.11 and will be
removed. Without the compiler, or without a GPU that it supports, XLA compiles the plain implementation of the
same function.
"""

import contextlib
import contextvars
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

DTYPES = ("float32", "bfloat16")
_MIN_CAPABILITY = 8.0  # compute capability of an NVIDIA GPU: Ampere's
_is_plain = contextvars.ContextVar("plain form", default=False)


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Trace the plain form of every function in a block, on any backend.

    The choice between a kernel and XLA is made while a function is traced. A program that is traced on one
    machine and runs on another needs the form that all backends compile.
    """
    token = _is_plain.set(True)
    try:
        yield
    finally:
        _is_plain.reset(token)


def is_available(backend: str, dtype: str) -> bool:
    """Return True if kernels run on this process's devices; False in a block of `plain_form`.

    Args:
        backend: the backend of the devices, such as "gpu".
        dtype: name of the compute dtype.
    """
    if _is_plain.get() or backend != "gpu" or dtype not in DTYPES or not _has_triton_compiler():
        return False
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return not capability.replace(".", "", 1).isdecimal() or float(capability) >= _MIN_CAPABILITY


def _has_triton_compiler() -> bool:
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def pallas_call(
    kernel: Callable[..., None], name: str, grid: tuple[int, ...], warps: int,
    out: list[jax.ShapeDtypeStruct], *inputs: jax.Array, aliases: Mapping[int, int] | None = None,
) -> list[jax.Array]:  # fmt: skip
    """Run a kernel once for each program of a grid; interpreted on a CPU, for tests.

    Args:
        kernel: called as `kernel(*references to inputs, *references to outputs)`; writes the outputs.
        name: name of the kernel in profiles.
        grid: number of programs along each axis.
        warps: warps of a program.
        out: shapes and dtypes of the outputs.
        *inputs: arrays on the device.
        aliases: position of an input -> position of the output that takes its memory.

    Returns:
        Arrays of the shapes and dtypes `out`.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    return pallas.pallas_call(
        kernel,
        grid=grid,
        out_shape=out,
        input_output_aliases=dict(aliases or {}),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=jax.default_backend() == "cpu",
        name=name,
    )(*inputs)


def power_of_two(n: int) -> int:
    """Smallest power of two >= n, for n >= 1; every size in a kernel must be one."""
    return 1 << (n - 1).bit_length()


def program_id(axis: int) -> jax.Array:
    """Index of this program in the grid along `axis`, an int32 scalar.

    Only inside a kernel.
    """
    from jax.experimental import pallas

    return pallas.program_id(axis)


def when(condition: jax.Array, then: Callable[[], None]) -> None:
    """Run a function in the programs for which a scalar condition holds; only inside a kernel."""
    from jax.experimental import pallas

    pallas.when(condition)(then)


def load(reference: Any, indices: Any, mask: jax.Array) -> jax.Array:
    """Load values of an array, 0 outside a mask; only inside a kernel.

    Args:
        reference: reference to an array.
        indices: indices that broadcast to the shape of the result.
        mask: bool, of the shape of the result.
    """
    from jax.experimental.pallas import triton

    return triton.load(reference.at[indices], mask=mask, other=0)


def store(reference: Any, indices: Any, x: jax.Array, mask: jax.Array) -> None:
    """Store values within a mask, cast to the dtype of the array.

    Only inside a kernel.

    Args:
        reference: reference to an array.
        indices: indices that broadcast to the shape of x.
        x: values.
        mask: bool, of the shape of x.
    """
    from jax.experimental.pallas import triton

    triton.store(reference.at[indices], x.astype(reference.dtype), mask=mask)
