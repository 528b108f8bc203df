"""Histories and features of ranking rows, shared by preparation and by requests."""

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.event_log import EventState, Log, last_plays
from jaxrec.data.examples.user_pools import ShownTitles
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.sessions.events import SessionEvents
from jaxrec.data.signals.past_values import PastSignals
from jaxrec.data.text.named_titles import NamedTitles
from jaxrec.data.tokens.merging import TokenEvents


class BesidePlays(NamedTuple):
    """Inputs of a partition's rows beside its plays, each where the layout has it.

    Attributes:
        signals: Signals of the plays.
        shown: Titles shown to the users.
        sessions: Sessions of the users.
        tokens: Events of signals for tokens.
        names: Titles by the n-grams of their names.
    """

    signals: PastSignals | None = None
    shown: ShownTitles | None = None
    sessions: SessionEvents | None = None
    tokens: TokenEvents | None = None
    names: NamedTitles | None = None


class Past(NamedTuple):
    """Past of Q queries: the events of a user that are strictly earlier than the query."""

    start: np.ndarray  # [Q] end of the past: the first event that is not strictly earlier
    first: np.ndarray  # [Q] begin of the past: the user's first event
    time: np.ndarray  # [Q] milliseconds of the query


def fill_history(
    rows: np.ndarray,
    log: Log,
    states: EventState,
    id_of_rank: np.ndarray,
    past: Past,
    width: int,
    abandon_threshold: float,
    signals: PastSignals | None = None,
) -> None:
    """Fill the histories of queries in `rows`, which are initially zero.

    Only present titles are written: most histories are far from full. Rows that hold values of signals need
    `signals`.
    """
    row, event, back = last_plays(past.start, past.first, states.next, width)
    at = row, width - back
    age = (past.time[row] - log.time[event]) / 1000.0
    rows["history_title"][at] = id_of_rank[log.rank[event]]
    rows["history_completion"][at] = states.completion[event]
    rows["history_age"][at] = np.log1p(age)
    rows["history_sessions"][at] = np.minimum(states.sessions[event], 255)
    rows["history_abandoned"][at] = states.completion[event] < abandon_threshold
    if signals is not None:
        rows["history_signals"][at] = signals.before(event, past.time[row])


def fill_session(
    rows: np.ndarray, sessions: SessionEvents, log: Log, states: EventState, past: Past, user: np.ndarray
) -> Past:
    """Fill the sessions of queries, and return their past at the begin of the session.

    The history of a row ends there, and so do its completions, its ages and the values of its signals: one
    history serves all requests of a session.

    Args:
        rows: [Q] rows, changed in place.
        sessions: Sessions of the log's users.
        log: Log of the users.
        states: States of its events.
        past: Past of the queries.
        user: [Q] users of the log.
    """
    state = sessions.at(user, past.time)
    sessions.fill(rows, states.completion, state, past.time, rows["session_title"].shape[1])
    # The play of a session begins at the session's begin or later, so the plays before it end the past.
    plays = Timeline(log.user, log.time)
    start = plays.first(plays.groups(user), state.begin)
    return Past(np.minimum(start, past.start), past.first, state.begin)


def fill_features(
    rows: np.ndarray, user: tuple[np.ndarray, np.ndarray], context: tuple[np.ndarray, np.ndarray]
) -> None:
    """Fill the features of Q rows.

    Args:
        rows: [Q] rows, changed in place.
        user: Ids [Q, columns] and standardised numbers [Q, columns] of the users.
        context: Ids and numbers of the context.
    """
    for where, (categories, numbers) in (("user", user), ("context", context)):
        for name, values in ((f"{where}_categories", categories), (f"{where}_numbers", numbers)):
            if name in (rows.dtype.names or ()):
                rows[name] = values
