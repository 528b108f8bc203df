"""Freed memory is kept by the process, unless its owner says otherwise."""

import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.runtime import host_memory

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import resource
import numpy as np
from jaxrec import heap

kept = heap.keep_freed()
np.ones(2**22)  # 32 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**22)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def start(tunables):
    """(whether it is kept, page faults of twenty blocks of 32 MiB) in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"GLIBC_TUNABLES": tunables},
    )  # fmt: skip
    kept, faults = map(int, done.stdout.split())
    return bool(kept), faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_freed_block_is_used_again_unless_the_environment_says_how():
    kept, faults = start("")
    assert kept and faults < 100
    kept, faults = start("glibc.malloc.mmap_threshold=131072")
    assert not kept and faults > 1000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert host_memory.retain_freed_memory() is False


def test_the_collector_is_back_however_a_block_ends():
    with host_memory.gc_paused():
        with host_memory.gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()  # as it was found
    assert gc.isenabled()
    with pytest.raises(KeyError), host_memory.gc_paused():
        raise KeyError
    assert gc.isenabled()
    gc.unfreeze()  # the suite's other tests have no use for it
