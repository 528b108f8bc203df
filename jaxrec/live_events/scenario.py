"""Scenario of a live event: the audience, capacities, times, retries and faults of `configs/live.py`.

Rates of services are per device, so that one scenario fits any number of devices.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxrec.config.tree import require, walk
from jaxrec.core.errors import InputError

MOST_SESSIONS = 18  # expected ones of a device in a window: counts are drawn up to 63 (fleet/prefetching.py)
MOST_SEGMENTS = 65_536
_MOST_REGIONS = 255  # of which the simulation holds a byte for each device


@dataclass
class Region:
    """A region with edge caches and sockets of its own, and its share of the devices."""

    name: str = "all"
    share: float = 1.0


@dataclass
class SlateQuality:
    """NDCG@10 of slates of `kappa` segments, as `python -m jaxrec.evaluate --segments` measures it."""

    kappa: int = 1
    ndcg: float = 0.0


@dataclass
class Audience:
    """Devices and their habits.

    Attributes:
        devices: Number of devices, N.
        online: Share of devices that are connected during the event, o.
        sessions_per_day: Sessions of a device and day; each prefetches.
        evening_peak: Largest rate of sessions over the mean rate of the day.
        peak_hour: Hour of the largest rate.
        regions: Regions, whose shares add up to 1.
    """

    devices: int = 1_000_000
    online: float = 0.4
    sessions_per_day: float = 3.0
    evening_peak: float = 2.5
    peak_hour: float = 20.0
    regions: tuple[Region, ...] = (Region("americas", 0.45), Region("emea", 0.35), Region("apac", 0.2))


@dataclass
class ServiceCapacity:
    """Rates and sizes that services bear.

    Attributes:
        requests: Requests a second of the service of slates, for each device; R / N.
        base: Requests a second of playback, for each device, which are served first.
        messages: Messages a second of all broadcast nodes, for each device; M / N.
        node_messages: Messages a second of one node.
        router_messages: Messages a second from the router to nodes.
        latency_s: Mean latency of the network between a node and a device, seconds.
        origin: Requests a second of the origin behind the edge caches.
        cache_bytes: Bytes of an edge cache for this event.
        reconnections: Connections a second that gateways accept, for each device.
        queue_s: Longest wait in a queue, seconds; longer queues are shed.
    """

    requests: float = 0.002
    base: float = 0.0005
    messages: float = 0.02
    node_messages: float = 1_000.0
    router_messages: float = 10_000.0
    latency_s: float = 0.1
    origin: float = 100.0
    cache_bytes: int = 64 * 2**20
    reconnections: float = 0.01
    queue_s: float = 2.0


@dataclass
class Times:
    """Times of the event, seconds unless the name has another unit.

    Attributes:
        start_hour: Hour of the planned start.
        duration_s: Planned duration.
        prefetch_hours: Longest time before the start at which slates are published.
        ttl_s: Mean time to live of a slate in a cache.
        tolerance_s: Longest delay of the start, which slates must outlive.
        deadline_s: Longest time in which the online devices must be updated.
        trigger_s: Time over which devices that fetch at the trigger spread.
        poll_s: Time to live of a slate where devices learn of the start by fetching alone.
    """

    start_hour: float = 20.0
    duration_s: float = 7_200.0
    prefetch_hours: float = 24.0
    ttl_s: float = 3_600.0
    tolerance_s: float = 1_200.0
    deadline_s: float = 60.0
    trigger_s: float = 1.0
    poll_s: float = 600.0


@dataclass
class Payload:
    """Slates of an event: bytes of a slate, bytes of a message, stages, and NDCG@10 by kappa."""

    slate_bytes: int = 4_096
    message_bytes: int = 96
    stages: int = 5
    quality: tuple[SlateQuality, ...] = ()


@dataclass
class Retries:
    """Retries of requests that were shed: attempt k waits up to min(longest_s, first_s 2^k) seconds.

    With jitter the wait is uniform between 0 and that bound (full jitter), without it is the bound. A device
    whose socket dropped tries to connect within `window_s` seconds, evenly; 0: as long as gateways need.
    """

    first_s: float = 1.0
    longest_s: float = 32.0
    jitter: bool = True
    window_s: float = 0.0


@dataclass
class Faults:
    """Faults of a simulation; the defaults are none.

    Attributes:
        loss: Share of messages, and of their acknowledgements, that are lost.
        duplicates: Share of messages that arrive twice.
        reorder_s: Longest further delay of a tenth of the messages, seconds.
        drop: Name of the region whose sockets drop two seconds after the start; empty: none.
        gateway_down_s: Time from the drop on for which the gateways refuse the devices of that region.
        router_down_s: Time that the router is down, from the start on; it then sends its log again.
        repeated_seq: True for a failed producer that sends an old state under the seq of the start.
        late_s: Delay of the start, seconds.
        early_s: Seconds by which the end comes before its planned time.
        clock_s: Largest error of a device's clock, seconds, in both directions.
        old_version: Share of devices that lack the state `delayed`.
    """

    loss: float = 0.0
    duplicates: float = 0.0
    reorder_s: float = 0.0
    drop: str = ""
    gateway_down_s: float = 0.0
    router_down_s: float = 0.0
    repeated_seq: bool = False
    late_s: float = 0.0
    early_s: float = 0.0
    clock_s: float = 0.0
    old_version: float = 0.0


@dataclass
class LiveConfig:
    """A whole scenario, as `get_config` of `configs/live.py` returns it."""

    audience: Audience = field(default_factory=Audience)
    capacity: ServiceCapacity = field(default_factory=ServiceCapacity)
    times: Times = field(default_factory=Times)
    payload: Payload = field(default_factory=Payload)
    retries: Retries = field(default_factory=Retries)
    faults: Faults = field(default_factory=Faults)
    seed: int = 0


def check_scenario(config: LiveConfig) -> None:
    """Check a scenario.

    Raises:
        InputError: The first value that is not allowed.
    """
    walk(config, LiveConfig)
    for key, value in _positive(config):
        require(value > 0, key, value, "be above 0")
    for key, value, most in _bounded(config):
        require(0 <= value <= most, key, value, f"be from 0 to {most:,}")
    _check_audience(config)
    a, c, t, p = config.audience, config.capacity, config.times, config.payload
    require(0 <= c.base < c.requests, "capacity.base", c.base, f"be below capacity.requests={c.requests}")
    require(c.node_messages >= 1, "capacity.node_messages", c.node_messages, "be 1 or more")
    for key, hour in (("audience.peak_hour", a.peak_hour), ("times.start_hour", t.start_hour)):
        require(0 <= hour < 24, key, hour, "be from 0 to below 24")
    require(
        0 < t.prefetch_hours <= 48, "times.prefetch_hours", t.prefetch_hours,
        "be above 0 and at most 48: prefetching ends at the start",
    )  # fmt: skip
    require(bool(p.quality), "payload.quality", p.quality, "hold the NDCG of at least one kappa")
    kappas = [q.kappa for q in p.quality]
    require(
        kappas == sorted({*kappas}) and kappas[0] >= 1, "payload.quality", kappas, "have rising kappas from 1"
    )
    _check_faults(config)


def _check_audience(config: LiveConfig) -> None:
    a, days = config.audience, math.ceil(config.times.prefetch_hours / 24)
    require(10**3 <= a.devices <= 10**9, "audience.devices", a.devices, "be between 1,000 and 10^9")
    require(a.online <= 1, "audience.online", a.online, "be at most 1")
    require(1 <= a.evening_peak <= 10, "audience.evening_peak", a.evening_peak, "be between 1 and 10")
    require(
        a.sessions_per_day * days <= MOST_SESSIONS, "audience.sessions_per_day", a.sessions_per_day,
        f"give at most {MOST_SESSIONS} sessions in times.prefetch_hours={config.times.prefetch_hours:g}",
    )  # fmt: skip
    number = len(a.regions)
    require(1 <= number <= _MOST_REGIONS, "audience.regions", number, f"be 1 to {_MOST_REGIONS} regions")
    names = [region.name for region in a.regions]
    require(all(names) and len({*names}) == number, "audience.regions", names, "have names that differ")
    total = sum(region.share for region in a.regions)
    require(abs(total - 1) < 1e-6, "audience.regions", total, "have shares that add up to 1")


def _check_faults(config: LiveConfig) -> None:
    f, names = config.faults, [region.name for region in config.audience.regions]
    for key, share in (("loss", f.loss), ("duplicates", f.duplicates), ("old_version", f.old_version)):
        require(0 <= share < 1, f"faults.{key}", share, "be from 0 to below 1")
    duration = config.times.duration_s
    require(f.early_s < duration, "faults.early_s", f.early_s, f"be below times.duration_s={duration}")
    if f.drop and f.drop not in names:
        raise InputError(f"faults.drop={f.drop!r} must be one of {', '.join(names)}, or empty")
    require(
        not f.gateway_down_s or bool(f.drop), "faults.gateway_down_s", f.gateway_down_s,
        "be 0 without faults.drop, the region whose gateways refuse",
    )  # fmt: skip


def _bounded(config: LiveConfig) -> Iterator[tuple[str, float, int]]:
    """Yield values that must be 0 or more, with their keys and the largest value.

    Simulations hold an array of seconds, and end after the longest of these times.
    """
    hour, day = 3_600, 86_400
    groups: dict[str, dict[str, int]] = {
        "capacity": {"latency_s": 60, "queue_s": hour},
        "times": dict.fromkeys(
            ("duration_s", "ttl_s", "tolerance_s", "deadline_s", "trigger_s", "poll_s"), day
        ),
        "retries": {"first_s": hour, "longest_s": hour, "window_s": hour},
        "faults": dict.fromkeys(
            ("reorder_s", "gateway_down_s", "router_down_s", "late_s", "early_s", "clock_s"), hour
        ),
    }  # fmt: skip
    for group, limits in groups.items():
        for name, most in limits.items():
            yield f"{group}.{name}", getattr(getattr(config, group), name), most
    for i, quality in enumerate(config.payload.quality):
        yield f"payload.quality[{i}].kappa", quality.kappa, MOST_SEGMENTS
        yield f"payload.quality[{i}].ndcg", quality.ndcg, 1
    yield "seed", config.seed, 2**40


def _positive(config: LiveConfig) -> Iterator[tuple[str, float]]:
    """Yield the values that must be above 0, with their keys."""
    groups = {
        "audience": ("online", "sessions_per_day"),
        "capacity": (
            "requests", "messages", "node_messages", "router_messages", "latency_s", "origin", "cache_bytes",
            "reconnections", "queue_s",
        ),
        "times": ("duration_s", "ttl_s", "deadline_s", "trigger_s", "poll_s"),
        "payload": ("slate_bytes", "message_bytes", "stages"),
        "retries": ("first_s", "longest_s"),
    }  # fmt: skip
    for group, names in groups.items():
        for name in names:
            yield f"{group}.{name}", getattr(getattr(config, group), name)
    for i, region in enumerate(config.audience.regions):
        yield f"audience.regions[{i}].share", region.share
