"""Displays of all devices over time: `core.live.states.view` for arrays of devices.

A message is in force at a device from the later of its arrival and its `not_before` on the device's clock.
Of messages in force the last in the order of messages counts. A state that the device lacks, or whose slate
it does not hold yet, leaves the last good one.
"""

import dataclasses
import itertools

import numpy as np

from jaxrec.core.live.states import DELAYED, ENDED, LIVE, SCHEDULED, STATES
from jaxrec.live_events.fleet.broadcast import Deliveries
from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.fleet.timeline import EPOCH_S, EventTimeline
from jaxrec.live_events.scenario import LiveConfig

_FINE_S, _COARSE_S = (1.0, 90.0), 30.0  # step and length after a message, and the step after that
_AFTER_END_S = 240.0
_CODES = {state: np.int8(code) for code, state in enumerate(STATES)}


@dataclasses.dataclass
class Screens:
    """Devices that are online, and what reached them.

    Attributes:
        timeline: Messages, of which all arrays have those of `order`.
        order: Indices of the messages of the timeline, in the order of messages.
        clocks: [n] errors of the devices' clocks, seconds.
        old: [n] True for devices that lack the state `delayed`.
        arrival: [messages, n] seconds.
        in_force: [messages, n] seconds from which each message is in force.
        slates: [n] seconds from which each device holds the slates of the event; -inf for prefetched.
    """

    timeline: EventTimeline
    order: list[int]
    clocks: np.ndarray
    old: np.ndarray
    arrival: np.ndarray
    in_force: np.ndarray
    slates: np.ndarray


def make_screens(
    config: LiveConfig,
    timeline: EventTimeline,
    deliveries: Deliveries,
    devices: np.ndarray,
    covered: np.ndarray,
) -> Screens:
    """Return the devices before any has fetched a slate after the start.

    Args:
        config: Scenario with its faults.
        timeline: Messages.
        deliveries: Arrivals of the messages.
        devices: [n] numbers of the devices that are online.
        covered: [n] bool; True for devices with a prefetched slate.
    """
    order = sorted(range(len(timeline.sent)), key=lambda i: timeline.sent[i].message.order)
    clocks = config.faults.clock_s * (2 * draw(config.seed, Drawn.CLOCK, devices) - 1)
    old = draw(config.seed, Drawn.VERSION, devices) < config.faults.old_version
    arrival = deliveries.arrival[order]
    bounds = [timeline.sent[i].message.not_before - EPOCH_S for i in order]
    in_force = np.stack([np.maximum(one, bound - clocks) for one, bound in zip(arrival, bounds, strict=True)])
    slates = np.where(covered, -np.inf, np.inf)
    return Screens(timeline, order, clocks, old, arrival, in_force, slates)


def fetch_times(
    config: LiveConfig, screens: Screens, devices: np.ndarray, window_s: float, deliveries: Deliveries
) -> tuple[np.ndarray, np.ndarray]:
    """Return which devices lack the slate, by their index, and when they request it, seconds.

    A device requests it within the fill window after the first message in force whose state it has and whose
    slate it lacks; disconnected, as soon as it is connected again.
    """
    missing = np.flatnonzero(screens.slates == np.inf)
    first = np.full(len(missing), np.inf)
    for row, i in enumerate(screens.order):
        state = screens.timeline.sent[i].message.state
        if state != SCHEDULED:
            when = screens.in_force[row, missing]
            first = np.minimum(first, np.where((state == DELAYED) & screens.old[missing], np.inf, when))
    times = first + window_s * draw(config.seed, Drawn.FILL, devices[missing])
    down = deliveries.down[:, missing]
    times = np.where((times >= down[0]) & (times < down[1]), down[1], times)
    reached = np.isfinite(times)
    return missing[reached], times[reached]


def displayed(screens: Screens, time: float) -> np.ndarray:
    """Return int8 [n], the index in STATES of what each device displays at a time."""
    messages = [screens.timeline.sent[i].message for i in screens.order]
    n = len(screens.clocks)
    newest = np.full(n, -1, np.int8)
    for row in range(len(messages)):
        newest[screens.in_force[row] <= time] = row
    with_slate = screens.slates <= time
    good = np.full(n, _CODES[SCHEDULED], np.int8)
    for row, message in enumerate(messages):
        usable = screens.in_force[row] <= time
        if message.state != SCHEDULED:
            usable &= with_slate
        if message.state == DELAYED:
            usable &= ~screens.old
        # The message in force, or an earlier one that was in force when that was written.
        before = np.array(
            [row <= i and (i == row or message.not_before <= max(m.ts, m.not_before)) for i, m in
             enumerate(messages)] + [False]
        )  # fmt: skip
        good[usable & before[newest]] = _CODES[message.state]
    return good


def times_of(timeline: EventTimeline) -> tuple[np.ndarray, np.ndarray]:
    """Return times at which displays are compared with the operator's state, and their weights, seconds.

    The times are the middles of intervals, which are short after each message.
    """
    edges = {timeline.end_s + _AFTER_END_S}
    for sent in timeline.sent:
        edges |= {sent.at_s, *(sent.at_s + np.arange(0, _FINE_S[1], _FINE_S[0]))}
    ends = sorted({*(sent.at_s for sent in timeline.sent), timeline.end_s + _AFTER_END_S})
    for low, high in itertools.pairwise(ends):
        edges |= {*np.arange(low + _FINE_S[1], high, _COARSE_S)}
    ordered = np.array(sorted(edges))
    return (ordered[1:] + ordered[:-1]) / 2, np.diff(ordered)


def stale_and_spoiled(screens: Screens) -> tuple[float, int]:
    """Return the device-seconds of states other than the operator's, and the devices with a spoiler.

    A spoiler is a display of `live` or `ended` that no message which arrived at the device states, or before
    the `not_before` of the message on the device's clock.
    """
    stale, spoiled = 0.0, np.zeros(len(screens.clocks), bool)
    for time, weight in zip(*times_of(screens.timeline), strict=True):
        shown = displayed(screens, time)
        stale += weight * int((shown != _CODES[screens.timeline.state_at(time)]).sum())
        for state in (LIVE, ENDED):
            stated = np.zeros(len(shown), bool)
            for row, i in enumerate(screens.order):
                sent = screens.timeline.sent[i]
                if sent.message.state == state and sent.at_s <= time:
                    due = sent.message.not_before - EPOCH_S - screens.clocks <= time
                    stated |= (screens.arrival[row] <= time) & due
            spoiled |= (shown == _CODES[state]) & ~stated
    return stale, int(spoiled.sum())


def update_times(screens: Screens) -> np.ndarray:
    """Return the seconds [N] from the start being sent until each device displays it for good; inf: never."""
    settled = screens.timeline.settled
    row = next(r for r, i in enumerate(screens.order) if screens.timeline.sent[i].message is settled)
    return np.maximum(screens.in_force[row], screens.slates) - screens.timeline.start_s
