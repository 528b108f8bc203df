"""Messages of the simulated event under its faults: the operator's, and those of a failed producer.

The start is at time 0 as planned. The home page before the event comes with the prefetched slate.
"""

from typing import NamedTuple

from jaxrec.core.live.producer import Producer, publish, take_over
from jaxrec.core.live.states import AT_ONCE, DELAYED, ENDED, LIVE, SCHEDULED, Message
from jaxrec.live_events.scenario import LiveConfig

EVENT = "event"
EPOCH_S = 1e6  # time of the planned start on a right clock; 0 stands for AT_ONCE
_REPEATED_S, _TAKEN_OVER_S = (
    5.0,
    10.0,
)  # of a failed producer's message and of its successor's, after the start


class Sent(NamedTuple):
    """A message, the time at which it was sent, and whether the operator meant it."""

    message: Message
    at_s: float
    meant: bool = True


class EventTimeline(NamedTuple):
    """All messages of an event.

    Attributes:
        sent: Messages in the order of their times.
        start_s: Time at which the start was sent, after the planned start.
        end_s: Time of the end, after the planned start.
    """

    sent: tuple[Sent, ...]
    start_s: float
    end_s: float

    def state_at(self, time: float) -> str:
        """Return the state that the operator meant at a time."""
        meant = [s.message.state for s in self.sent if s.meant and s.at_s <= time]
        return meant[-1] if meant else SCHEDULED

    @property
    def settled(self) -> Message:
        """The last message that states the start."""
        return [s.message for s in self.sent if s.meant and s.message.state == LIVE][-1]


def make_timeline(config: LiveConfig) -> EventTimeline:
    """Return the messages of a scenario with its faults."""
    faults, producer, sent = config.faults, Producer(), []

    def send(state: str, at_s: float, not_before: float = AT_ONCE) -> None:
        nonlocal producer
        producer, message = publish(producer, EVENT, state, EPOCH_S + at_s, not_before)
        sent.append(Sent(message, at_s))

    start = faults.late_s
    if start:
        send(DELAYED, 0.0)
    send(LIVE, start)
    if faults.repeated_seq:
        at = start + _REPEATED_S
        stray = Message(EVENT, sent[-1].message.seq, EPOCH_S + at, SCHEDULED)
        sent.append(Sent(stray, at, meant=False))
        producer = take_over([s.message for s in sent])
        send(LIVE, start + _TAKEN_OVER_S)
    end = start + config.times.duration_s - faults.early_s
    send(ENDED, end, not_before=EPOCH_S + end)
    return EventTimeline(tuple(sent), start, end)
