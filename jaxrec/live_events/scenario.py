"""Scenario of a live event: the audience, capacities, times, retries and faults of `configs/live.py`.

Rates of services are per device, so that one scenario fits any number of devices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxrec.config.tree import require, walk
from jaxrec.core.errors import InputError


@dataclass
class Region:
    """A region with edge caches and sockets of its own, and its share of the devices."""

    name: str = "all"
    share: float = 1.0


@dataclass
class SlateQuality:
    """NDCG@10 of slates of `kappa` segments, as `live evaluate` measures it."""

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

    With jitter the wait is uniform between 0 and that bound (full jitter), without it is the bound.
    """

    first_s: float = 1.0
    longest_s: float = 32.0
    jitter: bool = True


@dataclass
class Faults:
    """Faults of a simulation; the defaults are none.

    Attributes:
        loss: Share of messages, and of their acknowledgements, that are lost.
        duplicates: Share of messages that arrive twice.
        reorder_s: Longest further delay of a tenth of the messages, seconds.
        drop: Name of the region whose sockets drop two seconds after the start; empty: none.
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
    a, c, t, p, f = config.audience, config.capacity, config.times, config.payload, config.faults
    require(10**3 <= a.devices <= 10**9, "audience.devices", a.devices, "be between 1,000 and 10^9")
    for key, value in _positive(config):
        require(value > 0, key, value, "be above 0")
    require(a.online <= 1, "audience.online", a.online, "be at most 1")
    require(1 <= a.evening_peak <= 10, "audience.evening_peak", a.evening_peak, "be between 1 and 10")
    require(bool(a.regions), "audience.regions", a.regions, "have a region")
    names = [region.name for region in a.regions]
    require(len({*names}) == len(names), "audience.regions", names, "have names that differ")
    total = sum(region.share for region in a.regions)
    require(abs(total - 1) < 1e-6, "audience.regions", total, "have shares that add up to 1")
    require(0 <= c.base < c.requests, "capacity.base", c.base, f"be below capacity.requests={c.requests}")
    for key, hour in (("audience.peak_hour", a.peak_hour), ("times.start_hour", t.start_hour)):
        require(0 <= hour < 24, key, hour, "be from 0 to below 24")
    require(
        0 < t.prefetch_hours <= 48, "times.prefetch_hours", t.prefetch_hours,
        "be above 0 and at most 48: prefetching ends at the start",
    )  # fmt: skip
    require(t.tolerance_s >= 0, "times.tolerance_s", t.tolerance_s, "be 0 or more")
    require(bool(p.quality), "payload.quality", p.quality, "hold the NDCG of at least one kappa")
    kappas = [q.kappa for q in p.quality]
    require(
        kappas == sorted({*kappas}) and kappas[0] >= 1, "payload.quality", kappas, "have rising kappas from 1"
    )
    for key, share in (("loss", f.loss), ("duplicates", f.duplicates), ("old_version", f.old_version)):
        require(0 <= share < 1, f"faults.{key}", share, "be from 0 to below 1")
    for key, seconds in (
        ("reorder_s", f.reorder_s), ("router_down_s", f.router_down_s), ("late_s", f.late_s),
        ("clock_s", f.clock_s), ("early_s", f.early_s),
    ):  # fmt: skip
        require(0 <= seconds <= 3600, f"faults.{key}", seconds, "be from 0 to 3600")
    require(
        f.early_s < t.duration_s, "faults.early_s", f.early_s, f"be below times.duration_s={t.duration_s}"
    )
    if f.drop and f.drop not in names:
        raise InputError(f"faults.drop={f.drop!r} must be one of {', '.join(names)}, or empty")


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
