"""Prefetching before the event: sessions of all devices, refreshes, and misses of the edge caches.

The sessions of a device are a Poisson process of the rate mu(t). Each session requests the slate. From its
first session on, a connected device refreshes the slate when it expires, so that a late start finds it fresh.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.live_events.equations import Curve
from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.planning import UpdatePlan
from jaxrec.live_events.scenario import LiveConfig

CHUNK = 1 << 18  # devices that are drawn at once
_MOST_SESSIONS = 64  # of a device in a window; the probability of more is below 1e-15 at a mean of 18


class Prefetched(NamedTuple):
    """Result of prefetching.

    Attributes:
        load: [seconds] requests of sessions and refreshes in each second of the window.
        sessions: Requests of sessions in the whole window.
        refreshes: Requests of refreshes in the whole window.
        covered: [N] bool; True for devices that hold a slate at the planned start.
        misses: Requests at the origin a second, over the window after its first TTL; NaN if not counted.
    """

    load: np.ndarray
    sessions: int
    refreshes: int
    covered: np.ndarray
    misses: float


def regions_of(config: LiveConfig, devices: np.ndarray) -> np.ndarray:
    """Return uint8 [n], the index of each device's region."""
    bounds = np.cumsum([region.share for region in config.audience.regions])[:-1]
    return np.searchsorted(bounds, draw(config.seed, Drawn.REGION, devices)).astype(np.uint8)


def are_online(config: LiveConfig, devices: np.ndarray) -> np.ndarray:
    """Return bool [n], True for devices that are connected during the event."""
    return draw(config.seed, Drawn.ONLINE, devices) < config.audience.online


def poisson_counts(uniforms: np.ndarray, mean: float) -> np.ndarray:
    """Return int64 [n], Poisson counts by inversion of their distribution."""
    k = np.arange(1, _MOST_SESSIONS)
    probabilities = np.exp(-mean) * np.concatenate([[1.0], np.cumprod(mean / k)])
    return np.searchsorted(np.cumsum(probabilities), uniforms).clip(max=_MOST_SESSIONS - 1)


def prefetch(config: LiveConfig, plan: UpdatePlan, count_misses: bool = True) -> Prefetched:
    """Return the requests of the prefetch window, and which devices hold a slate.

    Args:
        config: Scenario.
        plan: Plan, of which window, jitter and kappa are read.
        count_misses: False to skip the misses, for which all requests are sorted.
    """
    n, window = config.audience.devices, plan.window_s
    curve = Curve(config)
    expected = curve.sessions(window)
    load = np.zeros(int(window) + 1, np.int64)
    covered = np.zeros(n, bool)
    sessions = refreshes = 0
    requests: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, n, CHUNK):
        devices = np.arange(first, min(first + CHUNK, n))
        counts = poisson_counts(draw(config.seed, Drawn.SESSIONS, devices), expected)
        visitors = np.repeat(devices, counts)
        starts = np.cumsum(counts) - counts
        which = np.arange(len(visitors)) - np.repeat(starts, counts)
        # The start is at time 0; the times of the window are negative.
        times = -curve.times(draw(config.seed, Drawn.SESSION_TIME, visitors, which) * expected)
        visited = counts > 0
        covered[devices] = visited
        since = np.minimum.reduceat(times, starts[visited]) if len(times) else times
        waiting = are_online(config, devices[visited])
        again = refresh_times(config, plan.jitter, devices[visited][waiting], since[waiting])
        sessions, refreshes = sessions + len(times), refreshes + len(again[0])
        for who, when in ((visitors, times), again):
            load += np.bincount((when + window).astype(np.int64), minlength=len(load))[: len(load)]
            if count_misses:
                requests.append((_keys(config, plan.kappa, who), when.astype(np.float32)))
    rate = origin_rate(config, plan, requests) if count_misses else float("nan")
    return Prefetched(load, sessions, refreshes, covered, rate)


def refresh_times(
    config: LiveConfig, jitter: float, devices: np.ndarray, since: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return devices and times of refreshes before the start, seconds.

    The jitter is drawn for each refresh. Drawn once for a device, it would spread the first refresh alone.

    Args:
        config: Scenario.
        jitter: Jitter j of the TTL.
        devices: [n] devices that wait for the event.
        since: [n] times of their first slates.
    """
    who, when = [devices[:0]], [since[:0]]
    ttl, number = config.times.ttl_s, 0
    while len(devices):
        since = since + ttl * (1 + jitter * (2 * draw(config.seed, Drawn.TTL, devices, number) - 1))
        waiting = since < 0
        devices, since, number = devices[waiting], since[waiting], number + 1
        who.append(devices)
        when.append(since)
    return np.concatenate(who), np.concatenate(when)


def _keys(config: LiveConfig, kappa: int, devices: np.ndarray) -> np.ndarray:
    """Return int32 [n], the slate that each device requests at the edge cache of its region."""
    segment = (draw(config.seed, Drawn.SEGMENT, devices) * kappa).astype(np.int32)
    return regions_of(config, devices).astype(np.int32) * kappa + segment


def origin_rate(config: LiveConfig, plan: UpdatePlan, requests: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the misses a second of all edge caches, after the first TTL of the window.

    An edge cache holds a slate for its TTL; the first request after that is a miss.

    Args:
        config: Scenario.
        plan: Plan, of which window, jitter and kappa are read.
        requests: Keys of slates in edge caches, and times of their requests.
    """
    every = np.concatenate([keys for keys, _ in requests]).astype(np.float64)
    times = np.concatenate([when for _, when in requests]) + plan.window_s
    span = 2 * plan.window_s + 4 * config.times.ttl_s  # of the numbers of one key
    ordered = np.sort(every * span + times)
    keys = np.arange(plan.kappa * len(config.audience.regions))
    since, count, number = np.zeros(len(keys)), 0, 0
    while len(keys):
        found_at = np.searchsorted(ordered, keys * span + since)
        following = ordered[np.minimum(found_at, len(ordered) - 1)] - keys * span
        missed = (found_at < len(ordered)) & (following < span) & (following >= since)
        keys, since = keys[missed], following[missed]
        count += int((since >= config.times.ttl_s).sum())
        spread = 2 * draw(config.seed, Drawn.EDGE_TTL, keys, number) - 1
        since, number = since + config.times.ttl_s * (1 + plan.jitter * spread), number + 1
    return count / (plan.window_s - config.times.ttl_s)
