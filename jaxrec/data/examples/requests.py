"""Request rows: the history of each user at a time, as in the evaluation rows of a dataset.

Preparation and serving fill histories by the same functions. The row of a request equals the evaluation row
of a query at the same time in all fields of the history and of the features, so that a served score is the
evaluated score. Two cases differ. Plays of a user at one time are ordered by the row of the source's titles
in preparation, and by the order that the caller of this module gives to the log here. A play at exactly the
time of the query is no history here; a sequence may contain it in preparation.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import EventState, Log, TitleStats, event_states
from jaxrec.data.examples import histories, next_item
from jaxrec.data.examples.histories import BesidePlays
from jaxrec.data.tokens.merging import TokenEvents, merged_tokens


class PlayedTitles(NamedTuple):
    """Titles that users have played before their requests, sorted by user, then time.

    P pairs of a user and a title, each once.
    """

    user: np.ndarray  # [P] int64 in [0, U), ascending
    rank: np.ndarray  # [P] int64 popularity rank
    time: np.ndarray  # [P] int64 milliseconds of the latest play
    completion: np.ndarray  # [P] float64 in [0, 1], as of the latest play


class RequestRows(NamedTuple):
    """Rows of U users, one per user, and all titles that the users have played."""

    rows: np.ndarray  # [U] Layout.query_dtype(); targets and lists are 0
    played: PlayedTitles


def build(
    log: Log, catalogue: TitleStats, layout: Layout, data: Data, time: np.ndarray,
    context: tuple[np.ndarray, np.ndarray], beside: BesidePlays,
) -> RequestRows:  # fmt: skip
    """Build one row for each user of a log.

    Args:
        log: Plays of complete users. A user may have no play. In sequences, the final completion of a title
            counts plays after the request too, as in preparation; leave such plays out to serve.
        catalogue: Titles in rank order.
        layout: Layout of the rows.
        data: Settings of the dataset.
        time: [U] milliseconds; plays strictly earlier are the history.
        context: Ids [U, columns] and standardised numbers [U, columns] of the requests.
        beside: Signals of the plays, sessions, or events for tokens, where the layout has them.
    """
    states = event_states(log, catalogue.runtime)
    users = len(log.hash)
    first = np.searchsorted(log.user, np.arange(users))
    start = first + np.bincount(log.user[log.time < time[log.user]], minlength=users)
    rows = np.zeros(users, layout.query_dtype())
    rows["user"] = np.arange(users)
    if layout.rows == "next_item":
        sequences = next_item.sequences_of(log, states, catalogue, data)
        begin = log.time[sequences.event]
        if beside.tokens is not None:
            tokens = merged_tokens(log, states, catalogue, _before(beside.tokens, log, time), data)
            sequences, begin = next_item.with_tokens(sequences, tokens), tokens.time
            for column, values in zip(("categories", "numbers"), context, strict=True):
                if f"target_{column}" in (rows.dtype.names or ()):
                    rows[f"target_{column}"] = values
        is_past = begin < time[sequences.user]
        earlier = np.bincount(sequences.user[is_past], minlength=users)
        next_item.copy_plays(rows, "history_", sequences, sequences.first, sequences.first + earlier)
        rows["target_time"] = time // 1000
    else:
        past = histories.Past(start, first, time)
        if beside.sessions is not None:
            past = histories.fill_session(rows, beside.sessions, log, states, past, np.arange(users))
        histories.fill_history(
            rows, log, states, catalogue.id_of_rank, past, layout.max_history, data.abandon_threshold,
            beside.signals,
        )  # fmt: skip
        histories.fill_features(rows, (log.user_categories, log.user_numbers), context)
    return RequestRows(rows, _played_titles(log, states, start))


def _before(events: TokenEvents, log: Log, time: np.ndarray) -> TokenEvents:
    """Return the events before the requests at the times [U], so that no token reaches past its request."""
    user = np.searchsorted(log.hash, events.records["user"])
    return events._replace(records=events.records[events.records["time"] < time[user]])


def _played_titles(log: Log, states: EventState, start: np.ndarray) -> PlayedTitles:
    """Return the latest play of each title before `start` [U], an event of each user."""
    end = start[log.user]
    event = np.flatnonzero((np.arange(len(end)) < end) & (states.next >= end))
    return PlayedTitles(log.user[event], log.rank[event], log.time[event], states.completion[event])
