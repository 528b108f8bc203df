"""States of live events on a device: messages, their join, and what the device displays.

A message states: from `not_before` on, the event is in `state`, and everything that earlier messages stated
for that time or later is void. Messages are ordered by `Seq`, which counts. Wall clocks order nothing.

A device keeps, of each event, the messages that no newer message of the same state makes void. The join of
two such sets is commutative, associative and idempotent (a state-based CRDT: Shapiro et al. 2011), so that
loss followed by replay, duplicates and any order of arrival end in the same state. The set holds what every
version of a device needs: messages of one state are compared with one another alone, so that a device that
lacks a state can leave its messages out. The producer's compacted log is the same set.

In force is the message of the largest seq whose `not_before` is not after the device's clock. The clock of a
device is the largest time that it has read. Both grow only, so that the device never goes back to an older
message.
"""

import bisect
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxrec.core.errors import InputError

SCHEDULED, PRE, LIVE = "scheduled", "pre", "live"
DELAYED, ENDED, CANCELLED = "delayed", "ended", "cancelled"
STATES = (SCHEDULED, PRE, LIVE, DELAYED, ENDED, CANCELLED)
# States that may follow one another on the producer's side. A device may miss any of them, and therefore
# accepts every message. The step from ENDED to LIVE is a restart.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    SCHEDULED: (PRE, LIVE, DELAYED, CANCELLED),
    PRE: (LIVE, DELAYED, CANCELLED),
    LIVE: (DELAYED, ENDED, CANCELLED),
    DELAYED: (PRE, LIVE, CANCELLED),
    ENDED: (LIVE,),
    CANCELLED: (),
}
AT_ONCE = 0.0  # `not_before` of a message that is in force on arrival, whatever the device's clock


class Seq(NamedTuple):
    """Order of messages: a counter that survives the fail-over of the producer.

    Attributes:
        epoch: Number of the producer, larger for each that takes over.
        counter: Number of the message within the epoch.
    """

    epoch: int
    counter: int


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A change of an event's state, a few bytes long.

    Attributes:
        event: Id of the event.
        seq: Order among the messages of the event.
        ts: Time at which the producer wrote the message, seconds.
        state: State key; a device may lack it.
        not_before: Time on the device's clock before which the message is not in force, seconds; or AT_ONCE.
    """

    event: str
    seq: Seq
    ts: float
    state: str
    not_before: float = AT_ONCE

    @property
    def order(self) -> tuple[Any, ...]:
        """Total order: seq, and the content for two messages to which a faulty producer gave one seq."""
        return (*self.seq, self.ts, self.state, self.not_before)

    def to_json(self) -> dict[str, Any]:
        """Return the message as JSON: {event, seq: [epoch, counter], ts, state, not_before}."""
        return dataclasses.asdict(self) | {"seq": [*self.seq]}


def message_of(document: Any) -> Message:
    """Return the message of a JSON object.

    Raises:
        InputError: A field is missing or unknown, or its value is of another type.
    """
    names = [field.name for field in dataclasses.fields(Message)]
    if not isinstance(document, dict) or sorted(document) != sorted(names):
        raise InputError(f"a message of a live event must hold {', '.join(names)}, not {document!r:.200}")
    seq = document["seq"]
    if not (isinstance(seq, list) and len(seq) == 2 and all(type(n) is int and n >= 0 for n in seq)):
        raise InputError(f"seq={seq!r:.100} of a message must be [epoch, counter], each at least 0")
    for name in ("event", "state"):
        if not (isinstance(document[name], str) and document[name]):
            raise InputError(f"{name}={document[name]!r:.100} of a message must be a text")
    for name in ("ts", "not_before"):
        value = document[name]
        if not (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
            raise InputError(f"{name}={value!r:.100} of a message must be seconds, a finite number")
    return Message(**{**document, "seq": Seq(*seq)})


# ---------------------------------------------------------------- the join of messages

Messages = Mapping[str, tuple[Message, ...]]  # event -> messages, in their order


def join_message(messages: Messages, message: Message) -> Messages:
    """Return the messages with one more, without those that it makes void for every device.

    A message is void for every device if a newer one of the same state begins no later. The function is
    idempotent, and the order of calls does not change the result.

    Args:
        messages: Event -> messages that are not void, in their order; not modified.
        message: Message of any event, of any seq.
    """
    kept = messages.get(message.event, ())
    for other in kept:
        same = other.state == message.state and other.order >= message.order
        if same and other.not_before <= message.not_before:
            return messages
    rest = [
        other
        for other in kept
        if not (
            other.state == message.state
            and other.order < message.order
            and message.not_before <= other.not_before
        )
    ]
    bisect.insort(rest, message, key=lambda m: m.order)
    return {**messages, message.event: tuple(rest)}


def join_all(messages: Messages, more: Iterable[Message]) -> Messages:
    """Return the join of messages with further ones, in whatever order."""
    for message in more:
        messages = join_message(messages, message)
    return messages


def in_force(messages: Iterable[Message], clock: float) -> Message | None:
    """Return the message of the largest order that is in force at a time; None for none.

    Args:
        messages: Messages of one event, in their order.
        clock: Time in seconds.
    """
    return next((m for m in reversed([*messages]) if m.not_before <= clock), None)


# ---------------------------------------------------------------- the device


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceState:
    """State of a device, which no function modifies.

    Attributes:
        messages: Event -> messages that are not void, in their order.
        contents: (event, state) of the slates that the device holds.
        clock: Largest time that the device has read from its clock, seconds.
        states: State keys that the device's version has.
    """

    messages: Messages = dataclasses.field(default_factory=dict)
    contents: frozenset[tuple[str, str]] = frozenset()
    clock: float = -math.inf
    states: frozenset[str] = frozenset(STATES)


class View(NamedTuple):
    """Slate that a device displays for an event.

    Attributes:
        state: State whose slate is displayed; SCHEDULED for the home page without the event.
        seq: Seq of the message of that state; None without one.
        reason: Reason for a slate other than that of the message in force; "" if there is none.
        missing: State whose slate the device has to fetch; "" for none.
    """

    state: str
    seq: Seq | None
    reason: str = ""
    missing: str = ""


def apply(device: DeviceState, message: Message) -> DeviceState:
    """Return the device after a message: pure, idempotent, and independent of the order of messages."""
    messages = join_message(device.messages, message)
    return device if messages is device.messages else dataclasses.replace(device, messages=messages)


def replay(device: DeviceState, log: Messages) -> DeviceState:
    """Return the device after a reconnection: the join with the producer's compacted log."""
    for messages in log.values():
        device = dataclasses.replace(device, messages=join_all(device.messages, messages))
    return device


def advance(device: DeviceState, clock: float) -> DeviceState:
    """Return the device after it has read its clock; a clock that was set back changes nothing."""
    return dataclasses.replace(device, clock=clock) if clock > device.clock else device


def store_content(device: DeviceState, event: str, state: str) -> DeviceState:
    """Return the device with the slate of a state of an event in its cache."""
    return dataclasses.replace(device, contents=device.contents | {(event, state)})


def view(device: DeviceState, event: str) -> View:
    """Return what the device displays for an event.

    If the device lacks the state key in force, or its slate, the last good slate stays: that of the newest
    message in force when that state's message was written, among those that the device can display.
    """
    messages = device.messages.get(event, ())
    message = in_force(messages, device.clock)
    if message is None:
        return View(SCHEDULED, None)
    reason = missing = ""
    if message.state not in device.states:
        reason = f"unknown state {message.state}"
    elif not _has_slate(device, event, message.state):
        reason, missing = f"no slate of {message.state}", message.state
    else:
        return View(message.state, message.seq)
    since = min(device.clock, max(message.ts, message.not_before))
    usable = [m for m in messages if m.state in device.states and _has_slate(device, event, m.state)]
    good = in_force((m for m in usable if m.order < message.order), since)
    return View(good.state if good else SCHEDULED, good.seq if good else None, reason, missing)


def _has_slate(device: DeviceState, event: str, state: str) -> bool:
    """Return True if a device can display a state; SCHEDULED is the home page without the event."""
    return state == SCHEDULED or (event, state) in device.contents


def fetch_delay(device_key: str, message: Message, window: float) -> float:
    """Return the seconds after which a device without a slate fetches it, spread evenly over a window.

    Another message gives another delay, so that the same devices are not first each time.

    Args:
        device_key: Key of the device.
        message: Message whose slate is missing.
        window: Longest delay, seconds.
    """
    text = f"{device_key}\0{message.event}\0{message.seq.epoch}\0{message.seq.counter}"
    draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return window * (draw / 2**64)
