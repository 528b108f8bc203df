"""The process's memory: freed blocks kept, for a CPU's steps ask for them anew; its collector at rest.

glibc maps each large block on its own and gives it back when it is freed, so that the kernel zeroes the
same pages again at every step: a fifth of a core's time in `configs/smoe.py:small`
(benchmarks/results/cpu-2-cores.md). Where an accelerator takes the steps, their batches are still made
here. Told to keep them, the process holds the most it ever needed, and results are the same to the bit.
Where GLIBC_TUNABLES says something of malloc, that is left to stand.
"""

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_NEVER = 2**31 - 1  # an int's largest: no freed memory is enough to give back
_AT_A_TIME = 2**26  # bytes more than asked for, so that a growing heap asks seldom


def retain_freed_memory() -> bool:
    """Whether freed memory is kept from here on: with glibc, unless GLIBC_TUNABLES says how."""
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _AT_A_TIME))
    return all([mallopt(key, value) for key, value in wanted])


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Within, and for what was made there for good, Python looks for no garbage of cycles: while modules load
    and programs are traced it walks all that there is again and again, a fifth of the time, and finds that
    everything stays."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()
