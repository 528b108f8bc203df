"""Metrics as (sum, count) pairs: added over microbatches, devices and steps, and divided once."""

from typing import Any

import jax

from jaxrec.losses import ranking

Sums = dict[str, tuple[Any, Any]]  # metric -> (sum, count)


def mean_metrics(sums: Sums) -> dict[str, float]:
    """Return each metric's mean on the host, NaN where nothing was counted.

    With a gate, the figures of `losses.ranking.gate_statistics` are added.
    """
    host = jax.device_get(sums)
    means = {name: float(s / n) if n else float("nan") for name, (s, n) in host.items()}
    return means | ranking.gate_statistics(means)
