"""Metrics as (sum, count) pairs.

Pairs are added over microbatches, devices and steps, and divided once.
"""

from typing import Any

import jax

from jaxrec.losses import gate

Sums = dict[str, tuple[Any, Any]]  # metric -> (sum, count)


def mean_metrics(sums: Sums) -> dict[str, float]:
    """Return the mean of each metric as a Python float, NaN for a count of 0.

    With a gate, the values of `losses.gate.gate_statistics` are added.

    Args:
        sums: Metric -> (sum, count), scalars on the host or on a device.
    """
    host = jax.device_get(sums)
    means = {name: float(s / n) if n else float("nan") for name, (s, n) in host.items()}
    return means | gate.gate_statistics(means)
