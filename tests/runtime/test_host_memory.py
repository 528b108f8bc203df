"""Retention of freed memory, unless the environment configures malloc; GC pauses."""

import gc
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from jaxrec.runtime import host_memory

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import resource
import numpy as np
from jaxrec.runtime import host_memory

retained = host_memory.retain_freed_memory()
np.ones(2**22)  # 32 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**22)
print(int(retained), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def start(tunables):
    """Run SCRIPT; return (retained, page faults of twenty blocks of 32 MiB)."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"GLIBC_TUNABLES": tunables},
    )  # fmt: skip
    retained, faults = map(int, done.stdout.split())
    return bool(retained), faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_block_is_reused_unless_the_environment_configures_malloc():
    retained, faults = start("")
    assert retained and faults < 100
    retained, faults = start("glibc.malloc.mmap_threshold=131072")
    assert not retained and faults > 1000


def test_another_c_library_is_left_unchanged(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert host_memory.retain_freed_memory() is False


def test_live_objects_are_hidden_from_later_collections_and_garbage_is_freed():
    class Node:
        pass

    kept, lost = Node(), Node()
    lost.itself = lost
    freed = weakref.ref(lost)
    gc.freeze()  # as an earlier call: `lost` is hidden
    del lost
    try:
        host_memory.freeze_live_objects()
        assert freed() is None
        assert not any(thing is kept for thing in gc.get_objects())
    finally:
        gc.unfreeze()


def test_collector_is_restored_however_a_block_ends():
    with host_memory.gc_paused():
        with host_memory.gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()  # the state before the inner block
    assert gc.isenabled()
    with pytest.raises(KeyError), host_memory.gc_paused():
        raise KeyError
    assert gc.isenabled()
    gc.unfreeze()  # the other tests of the suite do not need frozen objects
