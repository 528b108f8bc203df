"""How every benchmark measures: rivals take turns, warm-up is left out, medians come with their spread.

A B A B ..., so that a busy spell of a shared machine falls on both. A ratio is the median over rounds of
each round's own ratio, for the two runs of a round stand next to each other in time.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "polars", "torch", "pandas")


@dataclass(frozen=True)
class Timing:
    """Seconds of each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def rate(self, work: float) -> dict[str, float]:
        """Units of `work` a second: median, least and most over the rounds."""
        return {
            "median": work / self.median,
            "least": work / max(self.seconds),
            "most": work / min(self.seconds),
        }


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """How many times faster `fast` is: median, least and most of the rounds' own ratios."""
    found = [s / f for s, f in zip(slow.seconds, fast.seconds, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def interleaved(rivals: dict[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Times each of `rivals` once a round, in turn; the first `warmup` rounds are not counted.

    A rival returns once its work is done (`block_until_ready`), not when it is under way.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(warmup):
        for run in rivals.values():
            run()
    for _ in range(rounds):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(s)) for name, s in seconds.items()}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> dict[str, Any]:
    """What a figure was measured on: processor, cores this process may use, memory, versions."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a benchmark that needs it says so itself
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "versions": found,
        "load_average": round(os.getloadavg()[0], 2),
    }


def copy_bandwidth() -> dict[str, float]:
    """Bytes a second that one thread reads and writes in copying 256 MiB: a host's limit."""
    source = np.ones(2**25, np.float64)
    target = np.empty_like(source)
    timing = interleaved({"copy": lambda: np.copyto(target, source)}, rounds=7, warmup=2)["copy"]
    return timing.rate(2 * source.nbytes)


def device_copy() -> dict[str, float]:
    """Bytes a second that jax's default device reads and writes in adding 1 to an array: 256 MiB on a CPU,
    4 GiB elsewhere."""
    import jax

    a = jax.numpy.zeros(2**26 if jax.default_backend() == "cpu" else 2**30, "float32")
    add = jax.jit(lambda x: x + 1.0)
    timing = interleaved({"copy": lambda: add(a).block_until_ready()}, rounds=9, warmup=2)["copy"]
    return timing.rate(2 * a.nbytes)


def matrix_rate(size: int = 0, dtype: str = "float32") -> dict[str, float]:
    """Floating-point operations a second of jax's own product of square matrices: a step's limit.

    By itself `size` is 1024 on a CPU, and 8192 elsewhere, where a product of 1024 is over before it is asked
    for.
    """
    import jax

    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)  # of zeros or ones some devices make more
    product = jax.jit(lambda x, y: x @ y)
    timing = interleaved({"product": lambda: product(a, a).block_until_ready()}, rounds=15, warmup=3)[
        "product"
    ]
    return timing.rate(2 * size**3)


def anonymous_memory(pid: int | str = "self") -> int:
    """Bytes of a process's memory that no file backs, now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status names no RssAnon")
