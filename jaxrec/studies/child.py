"""Command of a study's jobs: `python ARGUMENTS` on a set of CPU cores.

    python -m jaxrec.studies.child CORES ARGUMENTS

Libraries size their thread pools when they are loaded, so the CPU affinity is set before any import of
them. Where the study's process dies without a signal to its jobs, the kernel sends this process SIGTERM.
Both apply to Linux; on other systems neither is done.
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
