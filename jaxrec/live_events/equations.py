"""Closed forms of an update of all devices: load, coverage, broadcast, fill and misses.

With N devices, online share o, session rate mu(t) and an update at time 0:

    prefetch load   N (integral of mu over the window) / T_p; its peak is N max mu
    covered         1 - exp(-integral of mu over the window), for sessions as a Poisson process
    refresh peak    N o / (2 j TTL), where all slates expire alike once, with jitter 1 + U(-j, j)
    misses          kappa regions / TTL at the origin behind the edge caches
    broadcast       nodes / router rate + N o / (nodes x node rate) + latency
    fill            uncovered N o / (R - base), or kappa regions / origin if that is longer
    reconnections   online devices of the largest region / the rate of the gateways

Coverage counts devices. Load counts sessions, of which a device may have several.
"""

import functools
import math

import numpy as np

from jaxrec.live_events.scenario import LiveConfig

DAY_S = 86_400.0
_STEP_S = 10.0  # of the table of rates


def concentration(peak: float) -> float:
    """Return k for which exp(k cos) / I0(k), a curve of mean 1, has a peak.

    Args:
        peak: Largest value of the curve, from 1 to 10.
    """
    low, high = 0.0, 700.0
    for _ in range(80):
        k = (low + high) / 2
        low, high = (k, high) if math.exp(k) / float(np.i0(k)) < peak else (low, k)
    return low


@functools.lru_cache(maxsize=8)
def _rates(sessions: float, peak: float, lead_h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seconds before the start, mu there, and the integral of mu since.

    Args:
        sessions: Sessions of a device and day.
        peak: Largest rate over the mean rate.
        lead_h: Hours from the hour of the peak to the start.
    """
    before = np.arange(0.0, 2 * DAY_S + _STEP_S, _STEP_S)
    k = concentration(peak)
    angle = 2 * np.pi * (lead_h * 3600 - before) / DAY_S
    rate = sessions / DAY_S * np.exp(k * np.cos(angle)) / np.i0(k)
    steps = (rate[1:] + rate[:-1]) / 2 * _STEP_S
    return before, rate, np.concatenate([[0.0], np.cumsum(steps)])


class Curve:
    """Sessions of a device before the start.

    Args:
        config: Scenario.
    """

    def __init__(self, config: LiveConfig) -> None:
        a = config.audience
        lead = config.times.start_hour - a.peak_hour
        self._before, rate, self._sum = _rates(a.sessions_per_day, a.evening_peak, lead)
        self._largest = np.maximum.accumulate(rate)

    def sessions(self, window_s: float) -> float:
        """Return the expected sessions of a device in the last `window_s` seconds before the start."""
        return float(np.interp(window_s, self._before, self._sum))

    def largest_rate(self, window_s: float) -> float:
        """Return the largest mu of a window before the start, sessions a second."""
        return float(np.interp(window_s, self._before, self._largest))

    def times(self, sessions: np.ndarray) -> np.ndarray:
        """Return the seconds before the start after which a device had so many sessions: the inverse."""
        return np.interp(sessions, self._sum, self._before)


def online_devices(config: LiveConfig) -> float:
    """Return N o."""
    return config.audience.devices * config.audience.online


def free_requests(config: LiveConfig) -> float:
    """Return R - base, requests a second."""
    return config.audience.devices * (config.capacity.requests - config.capacity.base)


def covered(config: LiveConfig, window_s: float) -> float:
    """Return the share of devices with a session in the window."""
    return -math.expm1(-Curve(config).sessions(window_s))


def prefetch_load(config: LiveConfig, window_s: float) -> float:
    """Return the mean requests a second of prefetching over the window."""
    return config.audience.devices * Curve(config).sessions(window_s) / window_s


def prefetch_peak(config: LiveConfig, window_s: float) -> float:
    """Return the largest requests a second of prefetching over the window."""
    return config.audience.devices * Curve(config).largest_rate(window_s)


def refresh_peak(config: LiveConfig, jitter: float) -> float:
    """Return the requests a second if the slates of all online devices expire alike, once."""
    width = 2 * jitter * config.times.ttl_s
    return online_devices(config) / width if width else math.inf


def largest_jitter(config: LiveConfig) -> float:
    """Return the largest jitter with which slates outlive the tolerance of the start; negative for none."""
    return min(0.5, 1 - config.times.tolerance_s / config.times.ttl_s)


def misses(config: LiveConfig, kappa: int) -> float:
    """Return the requests a second at the origin: each edge cache fetches each slate once a TTL."""
    return kappa * len(config.audience.regions) / config.times.ttl_s


def edge_bytes(config: LiveConfig, kappa: int) -> int:
    """Return the bytes of all slates of all stages in an edge cache."""
    return kappa * config.payload.stages * config.payload.slate_bytes


def most_shards(config: LiveConfig) -> int:
    """Return the number of broadcast nodes that the capacity of messages pays for."""
    c = config.capacity
    return int(config.audience.devices * c.messages / c.node_messages)


def broadcast_seconds(config: LiveConfig, shards: int) -> float:
    """Return the time until the last online device has the message, seconds."""
    c = config.capacity
    return shards / c.router_messages + online_devices(config) / (shards * c.node_messages) + c.latency_s


def fill_seconds(config: LiveConfig, uncovered: float, kappa: int) -> float:
    """Return the time in which online devices without a slate fetch it, seconds."""
    by_service = uncovered * online_devices(config) / free_requests(config)
    return max(by_service, kappa * len(config.audience.regions) / config.capacity.origin)


def reactive_peak(config: LiveConfig) -> float:
    """Return the requests a second if all online devices fetch at the trigger."""
    return online_devices(config) / config.times.trigger_s


def reconnection_seconds(config: LiveConfig) -> float:
    """Return the window over which devices of a region that dropped reconnect: that of the largest region.

    Where the scenario gives none, it has a tenth to spare: random peaks of a second stay below the rate of
    the gateways.
    """
    if config.retries.window_s:
        return config.retries.window_s
    largest = max(region.share for region in config.audience.regions)
    return 1.1 * config.audience.online * largest / config.capacity.reconnections
