"""Values of signals as of requests: by hand, and for random logs equal to those of a loop over events."""

import math

import numpy as np
import pytest

from jaxrec.config.schema import Signal
from jaxrec.core.tables import Interactions
from jaxrec.data.events.event_log import Log
from jaxrec.data.signals.past_values import PastSignals, events_of_plays
from jaxrec.data.signals.records import record_dtype, sort_events

pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
from hypothesis import given, settings
from hypothesis import strategies as st

SIGNALS = (
    Signal("thumb", "sign"),
    Signal("search", about="user"),
    Signal("trailer", "seconds"),
    Signal("stars", "number"),
    Signal("add"),
)
NAMES = ("stars", "add", "thumb", "trailer")  # an order of their own, and not all
KIND = {signal.name: kind for kind, signal in enumerate(SIGNALS)}
TITLES, NAN = 4, math.nan
ROW_OF_RANK = np.array([2, 0, 3, 1])


def log_of(plays):
    """Return a log of plays (user, rank), which are at any times."""
    hashes = np.unique([user for user, _ in plays]).astype(np.uint64)
    user = np.searchsorted(hashes, np.array([user for user, _ in plays], np.uint64))
    none = np.empty((0, 0))
    rank = np.array([rank for _, rank in plays])
    zeros = np.zeros(len(plays), np.int64)
    return Log(hashes, np.zeros(len(hashes), np.int8), user, rank, zeros, zeros, none, none, none, none)


def past_signals(plays, events, names=NAMES):
    """Return the signals of plays and of events (user, rank or -1, time, name, value)."""
    log, records = log_of(plays), np.zeros(len(events), record_dtype(SIGNALS))
    for name, column in zip(
        ("user", "title", "time", "kind", "value"), zip(*events, strict=True), strict=False
    ):
        records[name] = [KIND[kind] for kind in column] if name == "kind" else column
    records["title"] = np.append(ROW_OF_RANK, -1)[records["title"]]
    records, _ = sort_events(records, log.hash, len(SIGNALS))
    return PastSignals(names, SIGNALS, records, log, ROW_OF_RANK)


def of_loop(events, user, rank, until, name):
    """Return the value of a signal by a loop over events."""
    past = [
        (t, v) for u, r, t, n, v in dict.fromkeys(events) if (u, r, n) == (user, rank, name) and t < until
    ]
    if not past:
        return NAN
    last = max(past)[1]
    return {
        "add": math.log1p(len(past)),
        "trailer": math.log1p(sum(abs(v) for _, v in past)),
        "thumb": last,
        "stars": math.copysign(math.log1p(abs(last)), last),
    }[name]


# User 7 and the title of rank 1; beside them another title and another user.
EVENTS = [
    (7, 1, 10, "add", 1), (7, 1, 20, "add", 1), (7, 1, 30, "thumb", 1), (7, 1, 40, "thumb", -1),
    (7, 1, 40, "trailer", 1.5), (7, 1, 50, "trailer", 2), (7, 1, 40, "stars", -3), (7, 1, 50, "stars", 0),
    (7, 1, 50, "stars", -1), (7, 0, 5, "add", 1), (8, 1, 5, "thumb", -1), (7, -1, 5, "search", 1),
]  # fmt: skip
AT = {  # time of the request: stars, add, thumb, trailer
    10: [NAN, NAN, NAN, NAN],
    11: [NAN, math.log(2), NAN, NAN],
    30: [NAN, math.log(3), NAN, NAN],
    31: [NAN, math.log(3), 1, NAN],
    41: [-math.log(4), math.log(3), -1, math.log(2.5)],
    51: [0, math.log(3), -1, math.log(4.5)],  # of two values at one time the larger
}


@pytest.mark.parametrize("time", AT)
def test_values_are_those_of_the_events_strictly_before_the_request(time):
    values = past_signals([(7, 1), (8, 1)], EVENTS).before(np.array([0]), np.array([time]))
    assert values.dtype == np.float16
    np.testing.assert_allclose(values[0], np.float16(AT[time]), rtol=1e-3)


def test_another_user_and_another_title_have_values_of_their_own():
    signals = past_signals([(7, 0), (7, 1), (7, 2), (8, 1), (9, 1)], EVENTS, ("thumb", "add"))
    values = signals.before(np.arange(5), np.full(5, 10**9))
    two, three = np.float16(math.log(2)), np.float16(math.log(3))
    np.testing.assert_array_equal(values, [[NAN, two], [-1, three], [NAN, NAN], [-1, NAN], [NAN, NAN]])


def test_a_log_without_events_has_no_values():
    values = past_signals([(7, 0), (7, 1)], []).before(np.array([1, 0, 1]), np.array([-(2**62), 0, 2**62]))
    assert values.shape == (3, 4) and np.isnan(values).all()


def test_seconds_out_of_range_do_not_wrap_around():
    events = [(7, 1, 10, "trailer", 3e38), (7, 1, 20, "trailer", 3e38)]
    values = past_signals([(7, 1)], events, ("trailer",)).before(np.array([0, 0]), np.array([11, 21]))
    np.testing.assert_allclose(values[:, 0], np.log1p([2.0**43, 2.0**44]), rtol=1e-3)


EVENT = st.tuples(
    st.integers(7, 9), st.integers(0, TITLES - 1), st.integers(0, 6),
    st.sampled_from(NAMES), st.sampled_from([-2.5, -1, 0, 0.001, 1, 60, 1e6]),
)  # fmt: skip
PLAYS = st.lists(st.tuples(st.integers(7, 9), st.integers(0, TITLES - 1)), min_size=1, max_size=6)
LOGS = st.tuples(st.lists(EVENT, max_size=30), PLAYS, st.lists(st.integers(-1, 8), min_size=6, max_size=6))


def valid(event):
    """Return an event with a value of its signal."""
    *where, name, value = event
    allowed = {"add": 1.0, "thumb": 1.0 if value >= 0 else -1.0, "trailer": abs(value), "stars": value}
    return (*where, name, float(np.float32(allowed[name])))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(LOGS)
def test_values_of_random_logs_equal_a_loop_over_events(log):
    events, plays, times = [valid(event) for event in log[0]], sorted(log[1]), log[2]
    play = np.arange(len(plays)).repeat(len(times))
    time = np.tile(times, len(plays))
    values = past_signals(plays, events).before(play, time)
    expected = [
        [of_loop(events, *plays[p], t, name) for name in NAMES]
        for p, t in zip(play.tolist(), time.tolist(), strict=True)
    ]
    np.testing.assert_allclose(values, np.array(expected).astype(np.float16), rtol=2e-3)
    shuffled = past_signals(plays, events[::-1]).before(play[::-1], time[::-1])[::-1]
    assert shuffled.tobytes() == values.tobytes()
    # The values of a user are those of a log of this user alone, as in a partition of its own.
    own = [p for p, (user, _) in enumerate(plays) if user == plays[0][0]]
    alone = past_signals([plays[p] for p in own], events).before(np.arange(len(own)), np.full(len(own), 5))
    assert (
        alone.tobytes() == past_signals(plays, events).before(np.array(own), np.full(len(own), 5)).tobytes()
    )


def test_columns_of_plays_are_events_at_the_times_of_the_plays():
    signals = (*SIGNALS[:4], Signal("shown", column="*"), Signal("clip", "seconds", unit=0.001))
    plays = Interactions(
        np.array([7, 7, 8]), np.array([2, 1, -1]), np.array([10, 20, 30]), np.ones(3),
        {"thumb": np.array([0, -1, NAN]), "clip": np.array([1500, NAN, 2.0]), "device": np.array(["a"] * 3)},
    )  # fmt: skip
    events = events_of_plays(plays, signals, ("thumb", "clip", "shown", "stars"))
    columns = (events.kind, events.user, events.title, events.time)
    rows = [*zip(*(column.tolist() for column in columns), strict=True)]
    assert rows == [
        (0, 7, 1, 20),
        (4, 7, 2, 10),
        (4, 7, 1, 20),
        (4, 8, -1, 30),
        (5, 7, 2, 10),
        (5, 8, -1, 30),
    ]
    np.testing.assert_array_equal(events.value, np.float32([-1, 1, 1, 1, 1.5, 0.002]))
