"""Timing of the benchmarks: interleaved runs, warm-up rounds, medians, spreads.

The rivals run in turn (A B A B ...), so that a busy period of a shared machine affects both. A ratio is the
median of the ratios of the rounds, because the runs of one round are close to each other in time.
"""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "polars", "torch", "pandas")


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def rate(self, work: float) -> dict[str, float]:
        """Return units of `work` per second: median, least and most over the rounds."""
        return {
            "median": work / self.median,
            "least": work / max(self.seconds),
            "most": work / min(self.seconds),
        }


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """Return the speed-up of `fast` over `slow`: median, least and most over rounds."""
    ratios = [s / f for s, f in zip(slow.seconds, fast.seconds, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95% interval of the median, between two order statistics.

    The number of values below the median is binomial whatever their distribution. With fewer than six values
    the interval is from the least to the most, and covers the median less often.
    """
    ordered, n = sorted(values), len(values)
    left_out = max(math.floor((n - 1.96 * math.sqrt(n)) / 2) - 1, 0)
    return ordered[left_out], ordered[n - 1 - left_out]


def interleaved(
    rivals: dict[str, Callable[[], Any]], rounds: int, warmup: int = 1,
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:  # fmt: skip
    """Time each rival once per round, in turn; `warmup` rounds are not counted.

    A rival must return after its work is done (`block_until_ready`), not after the work is dispatched.

    Args:
        rivals: Name -> function that does the work.
        rounds: Number of rounds.
        warmup: Number of rounds before them.
        clock: Clock in seconds, such as `time.process_time`, which does not count other processes of a busy
            machine; None: `time.perf_counter`.
    """
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(warmup):
        for run in rivals.values():
            run()
    for _ in range(rounds):
        for name, run in rivals.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return {name: Timing(tuple(s)) for name, s in seconds.items()}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> dict[str, Any]:
    """Return the machine: processor, usable cores, memory and library versions."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a benchmark that needs the library reports it
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
        "load_average": round(os.getloadavg()[0], 2),
    }


def copy_bandwidth() -> dict[str, float]:
    """Return bytes per second that one thread reads and writes in a 256 MiB copy.

    The rate bounds what a host thread can do.
    """
    source = np.ones(2**25, np.float64)
    target = np.empty_like(source)
    timing = interleaved({"copy": lambda: np.copyto(target, source)}, rounds=7, warmup=2)["copy"]
    return timing.rate(2 * source.nbytes)


def device_copy() -> dict[str, float]:
    """Return bytes per second that jax's default device reads and writes.

    The device adds 1 to an array of 256 MiB on a CPU and of 4 GiB elsewhere.
    """
    import jax

    a = jax.numpy.zeros(2**26 if jax.default_backend() == "cpu" else 2**30, "float32")
    add = jax.jit(lambda x: x + 1.0)
    timing = interleaved({"copy": lambda: add(a).block_until_ready()}, rounds=9, warmup=2)["copy"]
    return timing.rate(2 * a.nbytes)


def matrix_rate(size: int = 0, dtype: str = "float32") -> dict[str, float]:
    """Return floating-point operations per second of jax's square matrix product.

    The rate bounds a step. The default `size` is 1024 on a CPU and 8192 elsewhere: on an accelerator, a
    product of size 1024 takes less time than its launch.
    """
    import jax

    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    # Random values: some devices multiply zeros or ones faster.
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x, y: x @ y)
    timing = interleaved({"product": lambda: product(a, a).block_until_ready()}, rounds=15, warmup=3)[
        "product"
    ]
    return timing.rate(2 * size**3)


def anonymous_memory(pid: int | str = "self") -> int:
    """Return the bytes of a process's memory that no file backs, at this moment."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no RssAnon line")
