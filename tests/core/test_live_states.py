"""States of live events: any loss, duplication and order of messages ends in the state of the ordered run.

`naive_view` keeps every message and looks all of them through, so that it does not depend on what is void.
"""

import random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrec.core.errors import InputError
from jaxrec.core.live import producer as producing
from jaxrec.core.live.producer import Producer, publish, reschedule, revoke, take_over
from jaxrec.core.live.states import (
    AT_ONCE,
    DELAYED,
    ENDED,
    LIVE,
    PRE,
    SCHEDULED,
    STATES,
    TRANSITIONS,
    DeviceState,
    Message,
    Seq,
    View,
    advance,
    apply,
    fetch_delay,
    in_force,
    join_all,
    message_of,
    replay,
    store_content,
    view,
)

OLD_VERSION = frozenset(STATES) - {DELAYED}
EVENTS = ("fight", "final")
EVERY_SLATE = frozenset((event, state) for event in EVENTS for state in STATES)
# The long form runs 2,000 schedules of each property: 14,000 in all.
SHORT = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(SHORT, max_examples=2_000)


# ---------------------------------------------------------------- random schedules and their delivery


class Delivery(NamedTuple):
    """Messages as a producer sent them, and as they and clocks reached a device."""

    sent: tuple[Message, ...]
    steps: tuple[Message | float, ...]
    log: dict[str, tuple[Message, ...]]


def sent_messages(draws: random.Random) -> tuple[list[Message], Producer]:
    """Return the messages of a random sequence of an operator's actions, with fail-overs and bad clocks."""
    producer, sent = Producer(), []
    for step in range(draws.randint(1, 12)):
        now = 100.0 * step - draws.choice((0, 0, 250))  # the clock may go back
        event = draws.choice(EVENTS)
        action = draws.choice((*producing.ACTIONS, "revoke", "move", "fail over", "repeat"))
        later = now + draws.choice((50, 150, 400))
        try:
            if action == "revoke":
                producer, message = revoke(producer, event, now)
                sent.append(message)
            elif action == "move":
                producer, messages = reschedule(producer, event, draws.choice(STATES), now, later)
                sent += messages
            elif action == "fail over":  # the new producer may have missed messages
                producer = take_over([m for m in sent if draws.random() < 0.8], producer.epoch)
            elif action == "repeat" and sent:  # a producer that was not fenced writes an old seq once more
                last = sent[-1]
                state = draws.choice(STATES)
                sent.append(Message(last.event, last.seq, now, state, draws.choice((AT_ONCE, later))))
            elif action in producing.ACTIONS:
                not_before = draws.choice((AT_ONCE, AT_ONCE, later))
                state = producing.ACTIONS[action]
                producer, message = publish(producer, event, state, now, not_before)
                sent.append(message)
        except InputError:
            continue  # an action that the present state does not allow
    return sent, producer


@st.composite
def deliveries(draw):
    """Return a random schedule with loss, duplication and reordering."""
    draws = random.Random(draw(st.integers(0, 2**48)))
    sent, _ = sent_messages(draws)
    loss = draws.choice((0, 0.1, 0.5, 1))
    received = [m for m in sent if draws.random() >= loss]
    received += [m for m in received if draws.random() < 0.3]
    order = [(i + draws.uniform(0, draws.choice((0, 3, 30))), m) for i, m in enumerate(received)]
    order.sort(key=lambda pair: pair[0])
    steps: list[Message | float] = [m for _, m in order]
    for _ in range(draws.randint(0, 6)):
        steps.insert(draws.randint(0, len(steps)), draws.uniform(-300, 1_800))
    return Delivery(tuple(sent), tuple(steps), join_all({}, sent))


@st.composite
def devices(draw):
    """Return a device of a new or an old version that holds some slates."""
    states = draw(st.sampled_from((frozenset(STATES), OLD_VERSION)))
    contents = draw(st.sampled_from((EVERY_SLATE, frozenset(), frozenset({("fight", PRE), ("fight", LIVE)}))))
    return DeviceState(contents=contents, states=states)


def run(device: DeviceState, steps) -> DeviceState:
    """Return the device after messages and clocks."""
    for step in steps:
        device = apply(device, step) if isinstance(step, Message) else advance(device, step)
    return device


def views(device: DeviceState) -> list[View]:
    """Return what a device displays for each event, now and at all later times at which that may change."""
    times = {m.not_before for kept in device.messages.values() for m in kept}
    later = [device, *(advance(device, time) for time in sorted(times))]
    return [view(d, event) for d in later for event in EVENTS]


def naive_view(messages, device: DeviceState, event: str) -> View:
    """Return what a device displays that has kept every message."""
    now = [m for m in messages if m.event == event and m.not_before <= device.clock]
    if not now:
        return View(SCHEDULED, None)

    def displayed(state: str) -> bool:
        return state in device.states and (state == SCHEDULED or (event, state) in device.contents)

    newest = max(now, key=lambda m: m.order)
    if displayed(newest.state):
        return View(newest.state, newest.seq)
    written = max(newest.ts, newest.not_before)
    older = [m for m in now if m.order < newest.order and m.not_before <= written and displayed(m.state)]
    good = max(older, key=lambda m: m.order, default=None)
    lacks = newest.state not in device.states
    reason = f"unknown state {newest.state}" if lacks else f"no slate of {newest.state}"
    shown = (good.state, good.seq) if good else (SCHEDULED, None)
    return View(*shown, reason, "" if lacks else newest.state)


# ---------------------------------------------------------------- properties


def _ends_as_ordered(delivery, device):
    ordered = run(device, delivery.sent)
    reached = run(device, delivery.steps)
    reached = run(reached, delivery.sent[::-1])  # the missing ones arrive last, and late
    assert reached.messages == ordered.messages
    clock = max(reached.clock, ordered.clock)
    assert views(advance(reached, clock)) == views(advance(ordered, clock))


def _right_after_replay(delivery, device):
    ordered = run(device, delivery.sent)
    missed = replay(run(device, delivery.steps), delivery.log)
    assert missed.messages == ordered.messages
    assert views(missed) == views(advance(ordered, missed.clock))
    assert views(replay(device, delivery.log)) == views(ordered)


def _as_if_all_were_kept(delivery, device):
    received = []
    for step in delivery.steps:
        device = run(device, [step])
        received += [step] if isinstance(step, Message) else []
        for event in EVENTS:
            assert view(device, event) == naive_view(received, device, event)


def _never_back(delivery, device):
    for event in EVENTS:
        last = None
        now = device
        for step in delivery.steps:
            now = run(now, [step])
            message = in_force(now.messages.get(event, ()), now.clock)
            order = message.order if message else None
            assert last is None or (order is not None and order >= last), (last, order)
            last = order


def _twice_as_once(delivery, device):
    for step in delivery.steps:
        device = run(device, [step])
        assert run(device, [step]) == device


def _events_apart(delivery, device):
    both = run(device, delivery.steps)
    for event in EVENTS:
        alone = run(device, [s for s in delivery.steps if not isinstance(s, Message) or s.event == event])
        assert view(alone, event) == view(both, event)


def _no_spoiler(delivery, device):
    device = device if device.contents else DeviceState(contents=EVERY_SLATE)
    received = []
    for step in delivery.steps:
        device = run(device, [step])
        received += [step] if isinstance(step, Message) else []
        for event in EVENTS:
            shown = view(device, event)
            if shown.state != SCHEDULED:
                allowed = [
                    m for m in received if (m.event, m.state, m.seq) == (event, shown.state, shown.seq)
                ]
                assert any(m.not_before <= device.clock for m in allowed), shown


PROPERTIES = (
    _ends_as_ordered,
    _right_after_replay,
    _as_if_all_were_kept,
    _never_back,
    _twice_as_once,
    _events_apart,
    _no_spoiler,
)
BOTH = {"delivery": deliveries(), "device": devices()}


@pytest.mark.parametrize("holds", PROPERTIES)
@SHORT
@given(**BOTH)
def test_the_properties_of_schedules(holds, delivery, device):
    holds(delivery, device)


@pytest.mark.slow
@pytest.mark.parametrize("holds", PROPERTIES)
@LONG
@given(**BOTH)
def test_the_properties_of_thousands_of_schedules(holds, delivery, device):
    holds(delivery, device)


# ---------------------------------------------------------------- cases by hand


def at(device: DeviceState, clock: float) -> str:
    return view(advance(device, clock), "fight").state


def full_device(**fields) -> DeviceState:
    return DeviceState(contents=EVERY_SLATE, **fields)


def test_a_planned_start_holds_at_its_time_and_a_delay_makes_it_void():
    producer, pre = publish(Producer(), "fight", PRE, 0)
    producer, start = publish(producer, "fight", LIVE, 10, not_before=1_000)
    device = run(full_device(), [start, pre])
    assert [at(device, t) for t in (0, 999, 1_000)] == [PRE, PRE, LIVE]
    producer, delay = publish(producer, "fight", DELAYED, 900)
    producer, start = publish(producer, "fight", LIVE, 900, not_before=2_200)
    device = run(device, [start, delay])
    assert [at(device, t) for t in (900, 1_000, 2_199, 2_200)] == [DELAYED, DELAYED, DELAYED, LIVE]


def test_a_start_that_is_moved_holds_at_the_new_time_alone():
    producer, first = publish(Producer(), "fight", LIVE, 0, not_before=1_000)
    _, earlier = publish(producer, "fight", LIVE, 10, not_before=500)
    assert [at(run(full_device(), [earlier, first]), t) for t in (499, 500)] == [SCHEDULED, LIVE]
    _, later = reschedule(producer, "fight", LIVE, 10, not_before=1_500)
    device = run(full_device(), [*later, first])
    assert [at(device, t) for t in (1_000, 1_499, 1_500)] == [SCHEDULED, SCHEDULED, LIVE]


def test_an_end_that_is_revoked_and_an_event_that_restarts():
    producer, start = publish(Producer(), "fight", LIVE, 0)
    producer, end = publish(producer, "fight", ENDED, 10)
    device = run(full_device(), [start, end])
    assert at(device, 10) == ENDED
    revoked, back = revoke(producer, "fight", 11)
    _, restart = publish(producer, "fight", LIVE, 12)
    assert (
        back.state == LIVE and at(apply(device, back), 11) == LIVE and at(apply(device, restart), 12) == LIVE
    )
    _, redone = revoke(revoked, "fight", 12)
    assert redone.state == ENDED


def test_a_planned_end_is_revoked_to_the_present_state():
    producer, _ = publish(Producer(), "fight", LIVE, 0)
    producer, end = publish(producer, "fight", ENDED, 5, not_before=100)
    _, back = revoke(producer, "fight", 6)
    assert at(run(full_device(), [end, back]), 200) == back.state == LIVE


def test_a_producer_that_takes_over_is_newer_although_messages_and_time_were_lost():
    producer, pre = publish(Producer(), "fight", PRE, 500)
    producer, start = publish(producer, "fight", LIVE, 600)
    successor = take_over([pre])  # the start did not reach it
    assert successor.epoch == 2
    successor, delay = publish(successor, "fight", DELAYED, 100)  # and its clock is behind
    assert delay.seq > start.seq
    assert at(run(full_device(), [delay, start, pre]), 600) == DELAYED
    assert take_over([], epoch=7).epoch == 8


def test_two_contents_of_one_seq_end_in_the_same_one():
    one, other = (Message("fight", Seq(1, 1), 0, state) for state in (PRE, LIVE))
    assert run(full_device(clock=0), [one, other]) == run(full_device(clock=0), [other, one])


def test_an_old_version_keeps_its_last_good_slate_and_gives_the_reason():
    producer, pre = publish(Producer(), "fight", PRE, 0)
    producer, start = publish(producer, "fight", LIVE, 5, not_before=100)
    producer, delay = publish(producer, "fight", DELAYED, 50)
    device = run(full_device(states=OLD_VERSION, clock=120), [delay, start, pre])
    assert view(device, "fight") == View(PRE, pre.seq, "unknown state delayed")


def test_a_device_without_the_slate_keeps_the_last_one_and_names_what_to_fetch():
    producer, pre = publish(Producer(), "fight", PRE, 0)
    _, start = publish(producer, "fight", LIVE, 5)
    device = run(DeviceState(contents=frozenset({("fight", PRE)}), clock=5), [pre, start])
    assert view(device, "fight") == View(PRE, pre.seq, "no slate of live", LIVE)
    assert view(store_content(device, "fight", LIVE), "fight") == View(LIVE, start.seq)


def test_fetches_fill_their_window_evenly_and_anew_for_each_message():
    first, second = (Message("fight", Seq(1, n), 0, LIVE) for n in (1, 2))
    delays = [[fetch_delay(f"d{i}", m, 30) for i in range(4_000)] for m in (first, second)]
    for drawn in delays:
        assert 0 <= min(drawn) < 0.1 and 29.9 < max(drawn) < 30
        assert abs(sum(drawn) / 4_000 - 15) < 5 * 30 / 12**0.5 / 4_000**0.5
    mean = sum((a - 15) * (b - 15) for a, b in zip(*delays, strict=True)) / 4_000
    assert abs(mean / 75) < 5 / 4_000**0.5  # the delays of two messages do not correlate
    assert fetch_delay("d0", first, 30) == fetch_delay("d0", first, 30)


# ---------------------------------------------------------------- the producer's rules, and JSON


def test_the_states_that_may_follow():
    assert set(TRANSITIONS) == set(STATES)
    for before in STATES:
        for after in STATES:
            producer = Producer(1, 1, {"fight": (Message("fight", Seq(1, 1), 0, before),)})
            if after == before or after in TRANSITIONS[before]:
                assert publish(producer, "fight", after, 1)[1].seq == Seq(1, 2)
            else:
                with pytest.raises(InputError, match=f"is {before}, which {after} may not follow"):
                    publish(producer, "fight", after, 1)
    with pytest.raises(InputError, match="no message that could be revoked"):
        revoke(Producer(), "fight", 0)


def test_a_message_is_the_same_after_json():
    message = Message("fight", Seq(2, 7), 1.5, "extra", 30.0)
    assert message_of(message.to_json()) == message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seq": [1]}, r"seq=\[1\]"),
        ({"seq": [1, True]}, "seq="),
        ({"seq": [-1, 0]}, "seq="),
        ({"state": ""}, "state=''"),
        ({"event": 3}, "event=3"),
        ({"ts": float("nan")}, "ts=nan"),
        ({"not_before": True}, "not_before=True"),
        ({"more": 1}, "must hold event"),
    ],
)
def test_a_message_with_a_wrong_field_is_refused(change, text):
    with pytest.raises(InputError, match=text):
        message_of(Message("fight", Seq(1, 1), 0, LIVE).to_json() | change)
