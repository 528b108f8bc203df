"""Broadcast of messages over two tiers: from a router to nodes, from each node to its devices.

A node sends to one device after another, at its rate. It sends again to devices that did not acknowledge,
until all did: at least once. A newer message of the event takes the place of an older one. Devices whose
sockets dropped reconnect by backoff, and the gateway replays the compacted log to them; a gateway that is
down refuses them. A router that is down keeps the producer's messages until it is up, and then sends its
whole log. Times, losses and order of the wire are simulated; no bytes are sent.
"""

import dataclasses

import numpy as np

from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.fleet.prefetching import regions_of
from jaxrec.live_events.fleet.requests import Calendar, ServiceLog, backoff, run_service
from jaxrec.live_events.fleet.timeline import EventTimeline
from jaxrec.live_events.scenario import LiveConfig

DROP_S = 2.0  # of the sockets of a region, after the start was sent
_ACKNOWLEDGED_S = 2.0  # a node sends again no earlier
_ROUNDS = 30
_REORDERED = 0.1  # share of messages that wait longer


@dataclasses.dataclass
class Deliveries:
    """Messages on the devices' side.

    Attributes:
        arrival: [messages, n] seconds; the first arrival of each message at each device, inf for none.
        sends: Messages that devices were sent, duplicates and replays included.
        peak: Largest number of messages sent in one second.
        down: [2, n] seconds; the time from and to which each device was disconnected, inf for never.
        gateway: Reconnections.
    """

    arrival: np.ndarray
    sends: int
    peak: int
    down: np.ndarray
    gateway: ServiceLog | None


def deliver(config: LiveConfig, timeline: EventTimeline, shards: int, devices: np.ndarray) -> Deliveries:
    """Return when the messages of an event arrive at connected devices.

    Args:
        config: Scenario with its faults.
        timeline: Messages.
        shards: Broadcast nodes; device i of the list belongs to node i modulo `shards`.
        devices: [n] numbers of the devices that are online.
    """
    down, gateway = _disconnections(config, timeline, devices)
    arrival = np.full((len(timeline.sent), len(devices)), np.inf)
    sent_at: list[np.ndarray] = []
    duplicates, free_at = 0, 0.0  # all nodes end a round at about the same time
    for number, sent in enumerate(timeline.sent):
        send = _Round(config, shards, devices, number)
        waiting = np.arange(len(devices))
        begin = max(_routed_at(config, timeline, sent.at_s), free_at)
        until = _superseded_at(config, timeline, number)
        for attempt in range(_ROUNDS):
            times = send.times(waiting, begin)
            waiting, times = waiting[times < until], times[times < until]
            free_at = float(times.max(initial=begin))
            sent_at.append(times)
            connected = (times < down[0, waiting]) | (times >= down[1, waiting])
            waiting, times = waiting[connected], times[connected]  # nodes drop devices that left
            came, acknowledged, delay = send.outcomes(waiting, attempt)
            arrived = waiting[came]
            arrival[number, arrived] = np.minimum(arrival[number, arrived], (times + delay)[came])
            waiting = waiting[~acknowledged]
            if not len(waiting):
                break
            begin = max(free_at, begin + _ACKNOWLEDGED_S)
            if begin >= until:
                break
        duplicates += send.duplicates
    replayed = _replay(config, timeline, devices, down, arrival)
    counts = _per_second(sent_at)
    return Deliveries(arrival, int(counts.sum()) + duplicates + replayed, int(counts.max()), down, gateway)


def _routed_at(config: LiveConfig, timeline: EventTimeline, sent_s: float) -> float:
    """Return when the router passes a message on: at once, or when it is up again."""
    up = timeline.start_s + config.faults.router_down_s
    return up if timeline.start_s <= sent_s < up else sent_s


def _superseded_at(config: LiveConfig, timeline: EventTimeline, number: int) -> float:
    """Return when nodes drop a message because a newer one reaches them; inf for never."""
    order = timeline.sent[number].message.order
    newer = (s.at_s for s in timeline.sent[number + 1 :] if s.message.order > order)
    return min((_routed_at(config, timeline, at) for at in newer), default=np.inf)


def _per_second(times: list[np.ndarray]) -> np.ndarray:
    """Return the number of times in each second, without those seconds in which there is none."""
    return np.unique(np.floor(np.concatenate(times)), return_counts=True)[1]


class _Round:
    """Sends of one message: when, and what becomes of them.

    Args:
        config: Scenario with its faults.
        shards: Broadcast nodes.
        devices: Numbers of the devices that are online.
        number: Index of the message.
    """

    def __init__(self, config: LiveConfig, shards: int, devices: np.ndarray, number: int) -> None:
        self.config, self.shards, self.devices, self.number = config, shards, devices, number
        self.duplicates = 0

    def times(self, waiting: np.ndarray, begin: float) -> np.ndarray:
        """Return when nodes send to devices, by their index in the list, in a round from `begin`, seconds."""
        c = self.config.capacity
        node = waiting % self.shards
        order = np.argsort(node, kind="stable")
        counts = np.bincount(node, minlength=self.shards)
        rank = np.empty(len(waiting), np.int64)
        rank[order] = np.arange(len(waiting)) - np.repeat(np.cumsum(counts) - counts, counts)
        return begin + (node + 1) / c.router_messages + (rank + 1) / c.node_messages

    def outcomes(self, waiting: np.ndarray, attempt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which messages came, which were acknowledged, and their delay in seconds."""
        faults, seed = self.config.faults, self.config.seed
        who, keys = self.devices[waiting], (self.number, attempt)
        delay = 2 * self.config.capacity.latency_s * draw(seed, Drawn.LATENCY, who, *keys)
        if faults.reorder_s:
            late = draw(seed, Drawn.REORDER, who, *keys)
            delay += np.where(late < _REORDERED, faults.reorder_s * late / _REORDERED, 0.0)
        if faults.duplicates:
            self.duplicates += int((draw(seed, Drawn.DUPLICATE, who, *keys) < faults.duplicates).sum())
        if not faults.loss:
            everything = np.ones(len(who), bool)
            return everything, everything, delay
        came = draw(seed, Drawn.LOSS, who, *keys) >= faults.loss
        return came, came & (draw(seed, Drawn.ACKNOWLEDGEMENT, who, *keys) >= faults.loss), delay


def _disconnections(
    config: LiveConfig, timeline: EventTimeline, devices: np.ndarray
) -> tuple[np.ndarray, ServiceLog | None]:
    """Return when devices are disconnected [2, n], and the gateway's log; inf and no log without a drop."""
    down = np.full((2, len(devices)), np.inf)
    names = [region.name for region in config.audience.regions]
    if not config.faults.drop:
        return down, None
    dropped = np.flatnonzero(regions_of(config, devices) == names.index(config.faults.drop))
    at = timeline.start_s + DROP_S
    down[0, dropped] = at
    calendar = Calendar()
    attempts = np.zeros(len(dropped), np.int64)
    # Devices spread their first attempt over the window that the gateways bear.
    first = eq.reconnection_seconds(config) * draw(config.seed, Drawn.RECONNECTION, devices[dropped])
    times, up = at + first, at + config.faults.gateway_down_s
    while len(early := np.flatnonzero(times < up)):  # refused at once
        times[early] += backoff(config.retries, config.seed, dropped[early], attempts[early])
        attempts[early] += 1
    calendar.push(times, dropped, attempts)

    def connect(times: np.ndarray, who: np.ndarray) -> None:
        down[1, who] = times

    rate = config.audience.devices * config.capacity.reconnections
    until = at + 3_600
    log = run_service(calendar, rate, config.capacity.queue_s, config.retries, config.seed, until, connect)
    return down, log


def _replay(
    config: LiveConfig, timeline: EventTimeline, devices: np.ndarray, down: np.ndarray, arrival: np.ndarray
) -> int:
    """Add the arrivals of replays to `arrival`, and return the number of messages that they took."""
    count = 0
    back = np.flatnonzero(np.isfinite(down[1]))
    delay = config.capacity.latency_s
    for number, sent in enumerate(timeline.sent):
        missing = back[down[1, back] >= sent.at_s]
        arrival[number, missing] = np.minimum(arrival[number, missing], down[1, missing] + delay)
        count += len(missing)
        if config.faults.router_down_s and sent.at_s < timeline.start_s:  # the router sends its log once more
            count += len(devices)
    return count
