"""Results of simulated strategies: times, peaks, queues, staleness, spoilers and bytes, as JSON and text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet.prefetching import Prefetched
from jaxrec.live_events.fleet.requests import ServiceLog
from jaxrec.live_events.fleet.strategies import BROADCAST, StrategyRun
from jaxrec.live_events.scenario import LiveConfig

SHARES = {"50": 0.5, "99": 0.99, "99.9": 0.999, "all": 1.0}
_POINTS = 200  # of a curve of updated devices


def updated_by(outcome: StrategyRun) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending seconds [S] after the start, and the number [S] of devices updated by each."""
    order = np.argsort(outcome.updates, kind="stable")
    weights = np.ones(len(order), np.int64) if outcome.weights is None else outcome.weights
    return outcome.updates[order], np.cumsum(weights[order])


def quantile(times: np.ndarray, counts: np.ndarray, share: float) -> float | None:
    """Return the seconds after which a share of all online devices is updated; None if it never is.

    Args:
        times: [n] ascending seconds, inf for never.
        counts: [n] devices that are updated by these times; the last is that of all devices.
        share: Share of the devices, above 0 and at most 1.
    """
    value = float(times[np.searchsorted(counts, np.ceil(share * counts[-1]))])
    return value if np.isfinite(value) else None


def summary(config: LiveConfig, outcome: StrategyRun, prefetched: Prefetched | None) -> dict[str, Any]:
    """Return the figures of a strategy.

    Args:
        config: Scenario.
        outcome: The simulated strategy.
        prefetched: Prefetching before it; None for strategies without.
    """
    times, counts = updated_by(outcome)
    log = outcome.service
    peak = outcome.base + (int(log.offered.max()) if log else 0)
    if prefetched is not None:
        playback = config.audience.devices * config.capacity.base
        peak = max(peak, playback + int(prefetched.load.max()))
    c, n = config.capacity, config.audience.devices
    return {
        "strategy": outcome.strategy,
        "online": outcome.online,
        "seconds": {name: quantile(times, counts, share) for name, share in SHARES.items()},
        "peak_requests": peak,
        "request_capacity": n * c.requests,
        "queue_s": log.longest_queue / eq.free_requests(config) if log else 0.0,
        "shed": log.shed if log else 0,
        "prefetches_shed": _prefetches_shed(config, outcome),
        "peak_messages": outcome.message_peak,
        "message_capacity": n * c.messages,
        "peak_reconnections": _peak(outcome.reconnections),
        "reconnection_capacity": n * c.reconnections,
        "messages": outcome.messages,
        "stale_s": outcome.stale / outcome.online,
        "spoilers": outcome.spoilers,
        "bytes": outcome.bytes,
        "events": outcome.events,
    }


def _peak(log: ServiceLog | None) -> int:
    """Return the largest number of requests of one second."""
    return int(log.offered.max()) if log else 0


def _prefetches_shed(config: LiveConfig, outcome: StrategyRun) -> int:
    """Return the prefetches that found no capacity, after playback and home pages."""
    if outcome.service is None or outcome.strategy != BROADCAST:
        return 0
    prefetches = outcome.base - config.audience.devices * config.capacity.base
    left = eq.free_requests(config) - outcome.service.served
    return round(float(np.maximum(prefetches - left, 0).sum()))


def past_capacity(row: dict[str, Any]) -> list[str]:
    """Return the names of the services whose largest load is above their capacity, in the summary `row`."""
    services = ("request", "message", "reconnection")
    return [name for name in services if row[f"peak_{name}s"] > row[f"{name}_capacity"]]


def curve(outcome: StrategyRun, until_s: float) -> tuple[list[float], list[float]]:
    """Return seconds after the start, and the share of online devices that are updated by then."""
    times = np.linspace(0, until_s, _POINTS)
    ends, counts = updated_by(outcome)
    shares = np.append(0, counts)[np.searchsorted(ends, times, side="right")] / outcome.online
    return times.tolist(), shares.tolist()


_COLUMNS = (
    "strategy", "50%", "99%", "99.9%", "all", "requests/s", "of", "queue s", "shed", "messages/s",
    "stale s", "spoilers", "GB",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a summary, by the columns of `table`."""
    seconds = ["never" if row["seconds"][k] is None else f"{row['seconds'][k]:.1f}" for k in SHARES]
    return [
        row["strategy"], *seconds, f"{row['peak_requests']:,.0f}", f"{row['request_capacity']:,.0f}",
        f"{row['queue_s']:.2f}", f"{row['shed']:,}", f"{row['peak_messages']:,}", f"{row['stale_s']:.1f}",
        "not simulated" if row["spoilers"] is None else f"{row['spoilers']}",
        f"{row['bytes'] / 1e9:.2f}",
    ]  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return summaries as a Markdown table; seconds are those of online devices."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in rows)])
