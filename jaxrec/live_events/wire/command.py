"""Command `python -m jaxrec.live produce`: the operator's actions, as messages of a log."""

import time
from pathlib import Path
from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, require_value
from jaxrec.core.errors import InputError
from jaxrec.core.live import producer as producers
from jaxrec.core.live.producer import ACTIONS, Producer
from jaxrec.core.live.states import AT_ONCE, DELAYED, LIVE, Message
from jaxrec.data.events.history_columns import milliseconds_of
from jaxrec.live_events.slates.folder import read_manifest
from jaxrec.live_events.wire.message_log import MessageLog

PURPOSE = "publish an operator's action to the devices: start, delay, end, cancel, revoke"
_REVOKE = "revoke"


def declare() -> None:
    """Declare the flags."""
    flags.DEFINE_string("log", None, "SQLite file of the messages, the --live_log of serve", required=True)
    flags.DEFINE_string("slates", None, "folder that python -m jaxrec.live slates wrote", required=True)
    flags.DEFINE_string("event", None, "id of the event", required=True)
    flags.DEFINE_enum("action", None, [*ACTIONS, _REVOKE], "what happens to the event", required=True)
    flags.DEFINE_string(
        "at", "", "time from which it holds, such as 2026-12-05T21:00:00Z; of delay the new start; a time "
        "that was planned before is moved; empty: now",
    )  # fmt: skip
    flags.DEFINE_bool(
        "take_over", False, "begin a new epoch first: this operator replaces one who may still send"
    )


def main(args: flags.FlagValues) -> None:
    """Append the messages of an action to the log, and print them.

    Raises:
        InputError: A flag is invalid, or the action may not follow the state of the event.
    """
    require_value("--log", args.log, "a file")
    at = milliseconds_of(args.at, "--at") if args.at else None
    if at is not None and args.action == _REVOKE:
        raise InputError(f"--at={args.at}; allowed: none with --action={_REVOKE}")
    manifest = read_manifest(args.slates)
    stages = manifest["slates"].get(args.event)
    if stages is None:
        known = ", ".join(manifest["slates"])
        raise InputError(f"--event={args.event}; allowed: {known}, the events of the slates {args.slates}")
    needed = {ACTIONS[args.action]} if args.action != _REVOKE else set()
    needed |= {LIVE} if args.action == "delay" and args.at else set()
    for state in sorted(needed - {*stages}):
        raise InputError(
            f"--action={args.action}: the slates {args.slates} have no stage {state} of {args.event}"
        )
    not_before = AT_ONCE if at is None else at / 1000
    if not Path(args.log).exists():  # an action that is refused leaves no file
        with MessageLog(":memory:") as empty:
            publish_action(empty, args.event, args.action, time.time(), not_before)
    with MessageLog(args.log) as log:
        if args.take_over:
            log.take_over()
        messages = publish_action(log, args.event, args.action, time.time(), not_before)
    result = {"log": args.log, "messages": [message.to_json() for message in messages]}
    print_result(result, "\n".join(_line(message) for message in messages))


def publish_action(
    log: MessageLog, event: str, action: str, now: float, not_before: float = AT_ONCE
) -> list[Message]:
    """Append the messages of an action to a log, and return them.

    Args:
        log: The log.
        event: Id of the event.
        action: One of `producer.ACTIONS`, or "revoke".
        now: Time of the operator's clock, seconds.
        not_before: Time from which it holds, seconds; of "delay" the new start. AT_ONCE: now, and of "delay"
            no new start.

    Raises:
        InputError: The action may not follow the state of the event.
    """

    def change(producer: Producer) -> tuple[Producer, list[Message]]:
        if action == _REVOKE:
            producer, message = producers.revoke(producer, event, now)
            return producer, [message]
        state = ACTIONS[action]
        if state == DELAYED:
            producer, delayed = producers.publish(producer, event, DELAYED, now)
            if not_before == AT_ONCE:
                return producer, [delayed]
            producer, live = producers.publish(producer, event, LIVE, now, not_before)
            return producer, [delayed, live]
        planned = [m for m in producer.log.get(event, ()) if m.state == state and m.not_before > now]
        if planned and not_before > now:
            return producers.reschedule(producer, event, state, now, not_before)
        producer, message = producers.publish(producer, event, state, now, not_before)
        return producer, [message]

    return log.change(change)


def _line(message: Message) -> str:
    document: dict[str, Any] = message.to_json()
    epoch, counter = document["seq"]
    when = "now" if message.not_before == AT_ONCE else f"from {message.not_before:.0f} s since 1970"
    return f"{message.event}: {message.state} {when}, message {epoch}.{counter}"
