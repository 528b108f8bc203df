"""Producer of a live event's messages: changes of the schedule in, messages with growing seq out.

The log is compacted by the join of `states`: it holds what a device that missed everything needs. Messages
are sent at least once. A producer that takes over from another has a larger epoch, so that its messages are
newer, whatever its clock or the number of messages that it did not receive.
"""

import dataclasses
from collections.abc import Iterable

from jaxrec.core.errors import InputError
from jaxrec.core.live.states import (
    AT_ONCE,
    CANCELLED,
    DELAYED,
    ENDED,
    LIVE,
    PRE,
    SCHEDULED,
    TRANSITIONS,
    Message,
    Messages,
    Seq,
    in_force,
    join_all,
    join_message,
)

# Operator's action -> state that it publishes. A restart is a start after the end.
ACTIONS = {"pre": PRE, "start": LIVE, "delay": DELAYED, "end": ENDED, "cancel": CANCELLED, "restart": LIVE}


@dataclasses.dataclass(frozen=True, slots=True)
class Producer:
    """State of a producer, which no function modifies.

    Attributes:
        epoch: Number of this producer, larger than that of all earlier ones.
        counter: Counter of the last message; 0 before the first.
        log: Compacted log: event -> messages that are not void.
    """

    epoch: int = 1
    counter: int = 0
    log: Messages = dataclasses.field(default_factory=dict)


def take_over(messages: Iterable[Message], epoch: int = 0) -> Producer:
    """Return the producer that continues after another one failed.

    Args:
        messages: Messages that reached the new producer; the last ones may be missing.
        epoch: Epoch of the failed producer, where a lease or a file holds it; 0: that of the messages alone.
    """
    log = join_all({}, messages)
    known = [m.seq.epoch for kept in log.values() for m in kept]
    return Producer(epoch=max([epoch, *known]) + 1, log=log)


def state_at(producer: Producer, event: str, time: float) -> str:
    """Return the state of an event that the messages so far give for a time, seconds."""
    message = in_force(producer.log.get(event, ()), time)
    return message.state if message else SCHEDULED


def publish(
    producer: Producer, event: str, state: str, now: float, not_before: float = AT_ONCE
) -> tuple[Producer, Message]:
    """Return the producer after a change of state, and the message to send.

    The message makes void what earlier ones state for `not_before` and later, a planned end among it.

    Args:
        producer: The producer.
        event: Id of the event.
        state: New state; the present state may be sent again.
        now: Time of the producer's clock, seconds; it orders nothing.
        not_before: Time from which the state holds; AT_ONCE for now.

    Raises:
        InputError: The state may not follow the state at that time.
    """
    before = state_at(producer, event, max(now, not_before))
    if state not in (before, *TRANSITIONS[before]):
        allowed = ", ".join(TRANSITIONS[before]) or "none; revoke takes the last change back"
        raise InputError(f"event {event} is {before}, which {state} may not follow; allowed: {allowed}")
    return _append(producer, event, state, now, not_before)


def reschedule(
    producer: Producer, event: str, state: str, now: float, not_before: float
) -> tuple[Producer, list[Message]]:
    """Return the producer after a planned state was moved, and the messages to send.

    The present state is sent again first: it makes the old time void, which a later time alone would not.
    """
    producer, present = _append(producer, event, state_at(producer, event, now), now, AT_ONCE)
    producer, moved = publish(producer, event, state, now, not_before)
    return producer, [present, moved]


def revoke(producer: Producer, event: str, now: float) -> tuple[Producer, Message]:
    """Return the producer after an operator's mistake was taken back, and the message to send.

    A planned state is taken back to the present one, the present state to the one before it. The message has
    a new seq: devices that received the mistake go on to it, as to any other message.

    Raises:
        InputError: The event has no messages.
    """
    kept = producer.log.get(event, ())
    if not kept:
        raise InputError(f"event {event} has no message that could be revoked")
    last = kept[-1]
    before = kept[:-1] if last.not_before > now else [m for m in kept[:-1] if m.state != last.state]
    message = in_force(before, now)
    return _append(producer, event, message.state if message else SCHEDULED, now, AT_ONCE)


def _append(
    producer: Producer, event: str, state: str, now: float, not_before: float
) -> tuple[Producer, Message]:
    """Return the producer with one more message in its log, and the message."""
    counter = producer.counter + 1
    message = Message(event, Seq(producer.epoch, counter), now, state, not_before)
    return Producer(producer.epoch, counter, join_message(producer.log, message)), message
