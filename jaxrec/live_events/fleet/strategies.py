"""Four ways to update all devices: reactive, fixed TTL, jittered TTL, prefetch and broadcast.

Reactive devices fetch at the trigger. Devices with a TTL fetch when their slate expires, and learn of the
start by that: with a fixed TTL all slates expire at the same times, with jitter at 1 + U(-j, j) times the TTL
after the last fetch. Prefetch and broadcast is the plan.
"""

import dataclasses

import numpy as np

from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet import displays
from jaxrec.live_events.fleet.broadcast import deliver
from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.fleet.prefetching import CHUNK, Prefetched, are_online
from jaxrec.live_events.fleet.requests import ROUND, Batch, Calendar, ServiceLog, run_service
from jaxrec.live_events.fleet.timeline import make_timeline
from jaxrec.live_events.planning import UpdatePlan
from jaxrec.live_events.scenario import LiveConfig

REACTIVE, FIXED, JITTERED, BROADCAST = "reactive", "fixed-ttl", "jittered-ttl", "broadcast"
STRATEGIES = (REACTIVE, FIXED, JITTERED, BROADCAST)
PERIODS = 3  # TTLs after the start that strategies with a TTL are simulated for


@dataclasses.dataclass
class StrategyRun:
    """Result of a strategy.

    Attributes:
        strategy: Name of the strategy.
        updates: [n] seconds from the start until each online device displays it; inf for never.
        service: Requests of home pages; None without any.
        base: Requests a second of playback and prefetching at the start, which `service` leaves out.
        messages: Messages that devices were sent.
        message_peak: Largest number of messages in one second.
        reconnections: Log of the gateways; None without any.
        stale: Device-seconds of displays other than the operator's state.
        spoilers: Devices that displayed a state too early; None where displays are not simulated.
        bytes: Bytes of slates and messages.
        events: Events of devices that were simulated.
        broadcast_s: Time until the first message had reached the last device, seconds; 0 without messages.
        weights: [n] devices that each of `updates` stands for; None: one each.
    """

    strategy: str
    updates: np.ndarray
    service: ServiceLog | None
    base: float
    messages: int = 0
    message_peak: int = 0
    reconnections: ServiceLog | None = None
    stale: float = 0.0
    spoilers: int | None = 0
    bytes: int = 0
    events: int = 0
    broadcast_s: float = 0.0
    weights: np.ndarray | None = None

    @property
    def online(self) -> int:
        """Number of devices that are online."""
        return len(self.updates) if self.weights is None else int(self.weights.sum())


def online_list(config: LiveConfig) -> np.ndarray:
    """Return the numbers [O] of the devices that are online, in their order."""
    n = config.audience.devices
    chunks = (np.arange(first, min(first + CHUNK, n)) for first in range(0, n, CHUNK))
    return np.concatenate([chunk[are_online(config, chunk)] for chunk in chunks])


def _serve(config: LiveConfig, calendar: Calendar, until_s: float, again) -> ServiceLog:
    """Serve the requests of home pages beside playback."""
    rate, queue = eq.free_requests(config), config.capacity.queue_s
    return run_service(calendar, rate, queue, config.retries, config.seed, until_s, again)


def fetching(config: LiveConfig, strategy: str, jitter: float) -> StrategyRun:
    """Simulate a strategy without messages.

    Args:
        config: Scenario; its faults are left out, as these devices receive no messages.
        strategy: REACTIVE, FIXED or JITTERED.
        jitter: Jitter of JITTERED.
    """
    devices = online_list(config)
    places, attempts = np.arange(len(devices)), np.zeros(len(devices), np.int64)
    updates = np.full(len(devices), np.inf)
    ttl, trigger, seed = config.times.poll_s, config.times.trigger_s, config.seed
    spread = trigger * draw(seed, Drawn.TRIGGER, devices)
    last = -ttl / 2  # all fetched at once; the start comes in the middle of the TTL
    rounds = np.zeros(len(devices), np.int64)
    calendar = Calendar()

    def expiry(who: np.ndarray, since: np.ndarray) -> np.ndarray:
        drawn = draw(seed, Drawn.POLL, devices[who], rounds[who])
        if strategy == FIXED:  # the server gives one time to all: a multiple of the TTL
            return last + ttl * (np.floor((since - last) / ttl + 1e-9) + 1) + trigger * drawn
        return since + ttl * (1 + jitter * (2 * drawn - 1))

    def again(times: np.ndarray, who: np.ndarray) -> Batch | None:
        updates[who] = np.minimum(updates[who], times)
        if strategy == REACTIVE:
            return None
        rounds[who] += 1
        return expiry(who, times), who, ROUND * rounds[who]

    first = spread if strategy == REACTIVE else expiry(places, np.full(len(devices), last) + spread)
    calendar.push(first, places, attempts)
    log = _serve(config, calendar, 3_600 if strategy == REACTIVE else PERIODS * ttl, again)
    fetched = int(log.served.sum())
    return StrategyRun(
        strategy, updates, log, config.audience.devices * config.capacity.base,
        stale=float(updates[np.isfinite(updates)].sum()),
        bytes=fetched * config.payload.slate_bytes,
        events=int(log.offered.sum()) + fetched,
    )  # fmt: skip


def broadcasting(config: LiveConfig, plan: UpdatePlan, prefetched: Prefetched) -> StrategyRun:
    """Simulate the plan: prefetched slates, a broadcast of the messages, and the fill of what lacks.

    Args:
        config: Scenario with its faults.
        plan: Plan.
        prefetched: Result of prefetching with the same plan.
    """
    devices, timeline = online_list(config), make_timeline(config)
    deliveries = deliver(config, timeline, plan.shards, devices)
    screens = displays.make_screens(config, timeline, deliveries, devices, prefetched.covered[devices])
    missing, times = displays.fetch_times(config, screens, devices, plan.fill_s, deliveries)
    calendar = Calendar()
    calendar.push(times, missing, np.zeros(len(missing), np.int64))

    def again(when: np.ndarray, who: np.ndarray) -> None:
        screens.slates[who] = when

    log = _serve(config, calendar, timeline.end_s + 3_600, again)
    stale, spoilers = displays.stale_and_spoiled(screens)
    n = config.audience.devices
    load = eq.prefetch_peak(config, 1.0) + eq.online_devices(config) * plan.covered / config.times.ttl_s
    slates = int(prefetched.covered.sum()) + len(missing)
    return StrategyRun(
        BROADCAST, displays.update_times(screens), log, n * config.capacity.base + load,
        messages=deliveries.sends, message_peak=deliveries.peak, reconnections=deliveries.gateway,
        stale=stale, spoilers=spoilers,
        bytes=slates * config.payload.stages * config.payload.slate_bytes
        + deliveries.sends * config.payload.message_bytes,
        broadcast_s=float(deliveries.arrival[0].max()) - timeline.sent[0].at_s,
        events=prefetched.sessions + prefetched.refreshes + deliveries.sends + int(log.offered.sum()),
    )  # fmt: skip
