"""The log of messages in SQLite: order, compaction, epochs, and the operator's actions."""

import json
import random

import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.live.producer import ACTIONS, Producer, publish
from jaxrec.core.live.states import DeviceState, Message, Seq, advance, apply, replay, view
from jaxrec.live_events.wire.command import publish_action
from jaxrec.live_events.wire.message_log import MessageLog


@pytest.fixture
def log(tmp_path):
    with MessageLog(tmp_path / "live.sqlite") as log:
        yield log


def states(log):
    return [(m.event, m.state, m.not_before) for _, m in log.since(0)]


def test_messages_come_in_order_after_a_position(log):
    for action in ("pre", "start", "end"):
        publish_action(log, "a", action, 100.0)
    rows = log.since(0)
    assert [m.state for _, m in rows] == ["pre", "live", "ended"]
    assert [m.seq for _, m in rows] == [Seq(1, 1), Seq(1, 2), Seq(1, 3)]
    assert [m.state for _, m in log.since(rows[0][0])] == ["live", "ended"] and log.since(rows[-1][0]) == []


def test_void_messages_are_deleted_and_positions_are_never_used_again(log):
    positions = []
    for _ in range(5):
        publish_action(log, "a", "start", 100.0)
        publish_action(log, "a", "delay", 100.0)
        positions += [position for position, _ in log.since(0)]
    assert states(log) == [("a", "live", 0.0), ("a", "delayed", 0.0)]
    assert sorted(positions) == positions == [*range(1, 11)]


def test_epoch_and_counter_survive_another_opening_and_grow_at_a_take_over(log, tmp_path):
    publish_action(log, "a", "pre", 100.0)
    with MessageLog(tmp_path / "live.sqlite") as other:
        assert other.name == log.name
        (message,) = publish_action(other, "a", "start", 50.0)  # a clock that is behind
        assert message.seq == Seq(1, 2)
        other.take_over()
    (message,) = publish_action(log, "a", "end", 10.0)
    assert message.seq == Seq(2, 1)


def test_a_change_that_is_refused_writes_nothing(log):
    publish_action(log, "a", "cancel", 100.0)
    with pytest.raises(InputError, match="event a is cancelled, which live may not follow"):
        publish_action(log, "a", "start", 100.0)
    assert states(log) == [("a", "cancelled", 0.0)]
    (message,) = publish_action(log, "b", "pre", 100.0)  # the transaction ended
    assert message.seq == Seq(1, 2)


def test_a_change_that_is_refused_in_the_middle_writes_nothing(log, monkeypatch):
    publish_action(log, "a", "pre", 100.0)
    monkeypatch.setattr(log, "since", None)  # raises after the messages are inserted

    def change(producer):
        return publish(producer, "a", "live", 100.0)[0], [Message("a", Seq(1, 2), 100.0, "live")]

    monkeypatch.setattr(log, "_producer", lambda: Producer(1, 1))
    with pytest.raises(TypeError):
        log.change(change)
    monkeypatch.undo()
    assert states(log) == [("a", "pre", 0.0)]


def test_a_delay_has_its_new_start_which_a_later_delay_moves(log):
    publish_action(log, "a", "start", 100.0)
    publish_action(log, "a", "delay", 110.0, 500.0)
    assert states(log)[-2:] == [("a", "delayed", 0.0), ("a", "live", 500.0)]
    publish_action(log, "a", "start", 120.0, 900.0)  # later still
    device = replay(DeviceState(), {"a": tuple(m for _, m in log.since(0))})
    shown = [view(advance(device, t), "a") for t in (130.0, 500.0, 899.0, 900.0)]
    assert [v.missing for v in shown] == ["delayed", "delayed", "delayed", "live"]


def test_a_mistake_is_revoked(log):
    publish_action(log, "a", "start", 100.0)
    publish_action(log, "a", "end", 110.0)
    publish_action(log, "a", "revoke", 111.0)
    assert log.since(0)[-1][1].state == "live" and log.since(0)[-1][1].seq == Seq(1, 3)
    with pytest.raises(InputError, match="event b has no message that could be revoked"):
        publish_action(log, "b", "revoke", 111.0)


def test_the_log_alone_makes_the_device_of_all_messages():
    """Random actions on two events: a device that missed everything equals one that received everything."""
    rng = random.Random(0)
    for _ in range(25):
        with MessageLog(":memory:") as log:
            device, now = DeviceState(), 0.0
            for _ in range(12):
                now += rng.choice([0.0, 5.0, 50.0])
                later = rng.choice([0.0, now + 20.0, now + 200.0])
                action, event = rng.choice([*ACTIONS, "revoke"]), rng.choice("ab")
                try:
                    messages = publish_action(log, event, action, now, later)
                except InputError:
                    continue
                for message in messages:
                    device = apply(device, message)
            missed = DeviceState()
            for _, message in log.since(0):
                missed = apply(missed, message)
            for event in "ab":
                for clock in (now, now + 20.0, now + 300.0):
                    assert view(advance(missed, clock), event) == view(advance(device, clock), event)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "live.sqlite").write_text("no database, but a text that is long enough to be read as one")
    with pytest.raises(InputError, match="file is not a database; allowed: a log of live messages, or a new"):
        MessageLog(tmp_path / "live.sqlite")
    with pytest.raises(InputError, match="unable to open database file"):
        MessageLog(tmp_path / "none" / "live.sqlite")


def test_a_message_that_was_changed_by_hand_is_refused(log):
    publish_action(log, "a", "pre", 100.0)
    log._db.execute("UPDATE messages SET message = ?", (json.dumps({"event": "a"}),))
    with pytest.raises(InputError, match="a message of a live event must hold event, seq"):
        log.since(0)
