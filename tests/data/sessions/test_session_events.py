"""Sessions of requests: by hand, and for random logs equal to those of a loop over events."""

import numpy as np
import pytest

from jaxrec.config.schema import Data, Signal
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import Log, event_states
from jaxrec.data.examples.histories import Past, fill_session
from jaxrec.data.sessions.events import SessionEvents
from jaxrec.data.signals.records import record_dtype, sort_events

pytest.importorskip("hypothesis", reason="hypothesis is of the extra `test`")
from hypothesis import given, settings
from hypothesis import strategies as st

SIGNALS = (Signal("thumb", "sign"), Signal("search", about="user"), Signal("trailer", "seconds"))
KIND = {signal.name: kind for kind, signal in enumerate(SIGNALS)}
TITLES, WIDTH, MINUTE = 4, 4, 60_000
ID_OF_RANK, ID_OF_ROW = np.array([4, 2, 5, 3], np.int32), np.array([2, 3, 4, 5], np.int32)
RUNTIME = np.full(TITLES, 100.0)
DATA = Data(session=WIDTH, session_gap_minutes=30.0)


def rows_of(plays, events, requests, data=DATA):
    """Return the rows and the pasts of requests (user, minute).

    Args:
        plays: (user, rank, minute, minutes viewed), each user with at least one, in any order.
        events: (user, row of the title or -1, minute, signal, value), in any order.
        requests: (user, minute).
        data: Settings.
    """
    hashes = np.unique([play[0] for play in plays]).astype(np.uint64)
    plays = sorted(set(plays), key=lambda play: (play[0], play[2], play[1]))
    user, rank, minute, viewed = (np.array(column) for column in zip(*plays, strict=True))
    none = np.empty((0, 0))
    log = Log(
        hashes, np.zeros(len(hashes), np.int8), np.searchsorted(hashes, user.astype(np.uint64)), rank,
        minute * MINUTE, viewed * MINUTE, none, none, none, none,
    )  # fmt: skip
    records = np.zeros(len(events), record_dtype(SIGNALS))
    for i, (of_user, title, at, name, value) in enumerate(events):
        records[i] = (of_user, title, at * MINUTE, KIND[name], value)
    records, _ = sort_events(records, hashes, len(SIGNALS))
    sessions = SessionEvents(log, records, SIGNALS, ID_OF_RANK, ID_OF_ROW, data)
    layout = Layout(TITLES + 2, 4, 1, (4, 0, 0, 0), 1, (), session=data.session, session_kinds=("play",))
    rows = np.zeros(len(requests), layout.query_dtype())
    of = np.searchsorted(hashes, np.array([request[0] for request in requests], np.uint64))
    time = np.array([request[1] for request in requests]) * MINUTE
    first = np.searchsorted(log.user, of)
    start = first + np.array(
        [((log.user == u) & (log.time < t)).sum() for u, t in zip(of, time, strict=True)]
    )
    states = event_states(log, RUNTIME)
    return rows, fill_session(rows, sessions, log, states, Past(start, first, time), of), log


def loop(plays, events, user, until, gap=30):
    """Return the session of one request by a loop over its user's events.

    Returns:
        Its begin in minutes, its events (minute, kind, title id, value), and the number of its plays.
    """
    merged, seen, session = [], {}, []
    for _, rank, minute, viewed in sorted(p for p in set(plays) if p[0] == user):
        merged.append((minute, 1, int(ID_OF_RANK[rank]), minute + viewed, (rank, viewed)))
    for of, title, minute, name, value in set(events):
        if of == user:
            number = {"thumb": value, "search": 1.0, "trailer": np.log1p(abs(value))}[name]
            merged.append(
                (minute, 2 + KIND[name], int(ID_OF_ROW[title]) if title >= 0 else 0, minute, number)
            )
    begin, ended = until, None
    past = sorted((m for m in merged if m[0] < until), key=lambda m: (*m[:3], m[1] > 1 and m[4]))
    for minute, kind, title, end, value in past:
        if ended is None or minute - ended > gap:
            begin, session = minute, []
        ended = end if ended is None else max(ended, end)
        if kind == 1:
            rank, viewed = value
            seen[rank] = seen.get(rank, 0) + viewed
            value = min(seen[rank] / 100.0, 1.0)
        session.append((minute, kind, title, value))
    if ended is None or until - ended > gap:
        return until, [], 0
    return begin, session, sum(event[1] == 1 for event in session)


def check(plays, events, requests):
    """Compare the rows of requests with those of the loop."""
    rows, past, log = rows_of(plays, events, requests)
    for row, start, begin, (user, until) in zip(rows, past.start, past.time, requests, strict=True):
        expected_begin, session, played = loop(plays, events, user, until)
        assert begin == expected_begin * MINUTE
        at = int(np.searchsorted(log.hash, np.uint64(user)))
        assert start == np.searchsorted(log.user, at) + ((log.user == at) & (log.time < begin)).sum()
        assert row["session_position"] == 1 + played
        session = session[-WIDTH:]
        empty = WIDTH - len(session)
        assert not row["session_kind"][:empty].any() and not row["session_title"][:empty].any()
        assert row["session_kind"][empty:].tolist() == [event[1] for event in session]
        assert row["session_title"][empty:].tolist() == [event[2] for event in session]
        np.testing.assert_allclose(row["session_value"][empty:], [event[3] for event in session], rtol=1e-3)
        ages = [np.log1p(60.0 * (until - event[0])) for event in session]
        np.testing.assert_allclose(row["session_age"][empty:], ages, rtol=1e-3)


# User 7 watches from 100 to 130 and from 140 to 240; user 8 is there so that nothing leaks between users.
PLAYS = [(7, 0, 0, 5), (7, 1, 100, 30), (7, 2, 140, 100), (7, 1, 400, 80), (8, 3, 135, 1)]
EVENTS = [
    (7, 0, 98, "trailer", 9.0), (7, 3, 130, "thumb", -1.0), (7, -1, 139, "search", 0.0),
    (8, 2, 129, "thumb", 1.0), (7, 2, 240, "thumb", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("minute", "begin", "position", "titles"),
    [
        (0, 0, 1, []),  # the first request: nothing before it
        (98, 98, 1, []),  # the trailer at the time of the request is not before it
        (100, 98, 1, [2]),  # the trailer of row 0 opens the session
        (140, 98, 2, [2, 2, 5, 0]),  # after the play of rank 1, a thumb and a search
        (150, 98, 3, [2, 5, 0, 5]),  # during the play of rank 2; four events are stored
        (270, 98, 3, [5, 0, 5, 4]),  # 30 minutes after the end of the play, which lasted 100
        (271, 271, 1, []),
        (500, 400, 2, [2]),
    ],
)
def test_a_session_ends_after_a_gap_since_the_end_of_the_last_event(minute, begin, position, titles):
    rows, past, _ = rows_of(PLAYS, EVENTS, [(7, minute)])
    assert past.time[0] == begin * MINUTE and rows["session_position"][0] == position
    assert rows["session_title"][0, WIDTH - len(titles) :].tolist() == titles
    check(PLAYS, EVENTS, [(7, minute), (8, minute)])


def test_the_value_of_a_play_is_the_completion_of_its_title_so_far():
    rows, _, _ = rows_of(PLAYS, EVENTS, [(7, 500)])
    assert rows["session_value"][0, -1] == 1.0  # 30 and 80 of 100 minutes
    rows, _, _ = rows_of(PLAYS, EVENTS, [(7, 140)])
    np.testing.assert_allclose(rows["session_value"][0], [np.log1p(9.0), 0.3, -1.0, 1.0], rtol=1e-3)


_MINUTES = st.integers(0, 90)
_USERS = st.sampled_from([7, 8, 9])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(_USERS, st.integers(0, TITLES - 1), _MINUTES, st.integers(0, 40)), min_size=1,
             max_size=12, unique_by=lambda play: (play[0], play[1], play[2])),
    st.lists(st.tuples(_USERS, st.integers(-1, TITLES - 1), _MINUTES, st.sampled_from(["thumb", "trailer"]),
                       st.sampled_from([1.0, 2.0]))
             .map(lambda e: (*e[:4], 1.0) if e[3] == "thumb" else e), max_size=12),
    st.lists(_MINUTES, min_size=1, max_size=6),
)  # fmt: skip
def test_random_sessions_are_those_of_a_loop_over_events(plays, events, minutes):
    users = {play[0] for play in plays}
    events = [event for event in events if event[0] in users]
    check(plays, events, [(user, minute) for user in sorted(users) for minute in minutes])
