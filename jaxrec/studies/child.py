"""python -m jaxrec.studies.child CORES ARGUMENTS: becomes `python ARGUMENTS` on its share of the cores.

Threads are counted when libraries start, so the share is set before anything else is loaded. Where a
study dies without a word, the kernel tells what it started (Linux; elsewhere neither is done).
"""

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); outlives exec

if __name__ == "__main__":
    if sys.platform == "linux":
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
