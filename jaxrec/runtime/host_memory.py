"""Host memory: retention of freed memory, pauses of the garbage collector.

glibc maps each large block separately and unmaps the block when it is freed. The kernel therefore zeroes the
same pages again at every step on a CPU, which took a fifth of a core's time in `configs/smoe.py:small`
(benchmarks/results/cpu-2-cores.md). On an accelerator the host still builds the batches. With
`retain_freed_memory` a process keeps its peak memory until it exits, and results are identical bit for bit.
A setting of malloc in GLIBC_TUNABLES is left unchanged.
"""

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)
_INT_MAX = 2**31 - 1  # the largest int as a trim threshold, so that freed memory is never returned
_TOP_PAD_BYTES = 2**26  # bytes requested beyond the need, so that a growing heap seldom calls the kernel


def retain_freed_memory() -> bool:
    """Make malloc keep freed memory in the process.

    Returns:
        True if the setting was applied. False without glibc, if GLIBC_TUNABLES configures malloc, or if
        glibc rejects a parameter.
    """
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _INT_MAX), (_TOP_PAD, _TOP_PAD_BYTES))
    return all([mallopt(key, value) for key, value in settings])


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector in a block, and freeze all live objects at its end.

    While modules load and programs are traced, the collector scans all objects again and again and frees
    none. The scans took a fifth of the time. Later collections skip frozen objects.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def freeze_live_objects() -> None:
    """Collect garbage, and hide the objects that remain from later collections.

    For a process that has loaded what it serves. Each full collection scans the millions of objects that
    tracing has made, while all other threads wait.
    """
    gc.unfreeze()  # what an earlier call has hidden may be garbage by now
    gc.collect()
    gc.freeze()
