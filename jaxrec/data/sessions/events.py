"""Sessions: the plays and the events of signals of users in the order of time, divided at long gaps.

A session begins with an event that comes more than `data.session_gap_minutes` after all earlier events of its
user have ended. A play ends `viewed` after its begin, any other event at its time. A request belongs to the
session of the events before it in the same way; where the gap is longer, it begins a session of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.config.declarations import Signal
from jaxrec.config.schema import Data
from jaxrec.data.events.event_log import Log, ranges
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.signals.past_values import single_values

_MINUTE_MS = 60_000


class SessionState(NamedTuple):
    """Sessions of Q requests, from the events strictly before each request.

    Attributes:
        first: [Q] the session's first event.
        end: [Q] the position after its last event before the request; `first` without an event.
        begin: [Q] int64 milliseconds of the session's first event, or of the request without an event.
        position: [Q] 1 + number of the session's plays before the request.
    """

    first: np.ndarray
    end: np.ndarray
    begin: np.ndarray
    position: np.ndarray


class SessionEvents:
    """Plays and events of signals of complete users, M in all, sorted by user and time.

    Ties are in the order of kind, title and value, so that the order depends on neither the source nor other
    users.

    Attributes:
        kind: [M] uint8: 1 for a play, 2 + i for an event of signal i.
        title: [M] int32 ids, 0 for an event of no title.
        time: [M] int64 milliseconds.
        play: [M] event of the log; -1 for an event of a signal.
        value: [M] float16 value of an event of a signal, as `past_values.single_values`; 0 for a play.
    """

    def __init__(
        self, log: Log, records: np.ndarray, signals: Sequence[Signal], id_of_rank: np.ndarray,
        id_of_row: np.ndarray, data: Data,
    ) -> None:  # fmt: skip
        """Merge and divide the events.

        Args:
            log: Log of the users, with N plays.
            records: Events of signals of `data.signals.records.record_dtype`, of users of the log.
            signals: Declared signals.
            id_of_rank: [V] title id of each popularity rank.
            id_of_row: [V] title id of each row of the catalogue, which `records["title"]` numbers.
            data: Settings of the dataset.
        """
        plays, others = len(log.user), len(records)
        user = np.concatenate([log.user, np.searchsorted(log.hash, records["user"])])
        time = np.concatenate([log.time, records["time"].astype(np.int64)])
        end = time.copy()
        end[:plays] += np.maximum(log.viewed, 0)
        kind = np.ones(plays + others, np.uint8)
        kind[plays:] += 1 + records["kind"].astype(np.uint8)
        title = np.concatenate([id_of_rank[log.rank], np.append(id_of_row, 0)[records["title"]]])
        value = np.zeros(plays + others, np.float16)
        value[plays:] = single_values(signals, records["kind"], records["value"])
        play = np.where(np.arange(plays + others) < plays, np.arange(plays + others), -1)
        order = np.lexsort((value, title, kind, time, user))
        self.kind, self.title, self.time = kind[order], title[order].astype(np.int32), time[order]
        self.play, self.value = play[order], value[order]
        self._gap = round(data.session_gap_minutes * _MINUTE_MS)
        user, end = user[order], end[order]
        self._timeline = Timeline(user, self.time)
        self._ended = _latest(user, end)
        is_new = np.ones(len(user), bool)
        is_new[1:] = (user[1:] != user[:-1]) | (self.time[1:] - self._ended[:-1] > self._gap)
        self._first = np.maximum.accumulate(np.where(is_new, np.arange(len(user)), 0))
        self._plays = np.append(0, np.cumsum(self.play >= 0))

    def at(self, user: np.ndarray, time: np.ndarray) -> SessionState:
        """Return the sessions of requests.

        Args:
            user: [Q] users of the log.
            time: [Q] milliseconds; events at them and after them do not count.
        """
        group = self._timeline.groups(user)
        end, low = self._timeline.first(group, time), self._timeline.begin(group)
        if not len(self.time):
            return SessionState(end, end, time, np.ones(len(time), np.int64))
        last = np.maximum(end - 1, 0)
        goes_on = (end > low) & (time - self._ended[last] <= self._gap)
        first = np.where(goes_on, self._first[last], end)
        begin = np.where(goes_on, self.time[np.minimum(first, len(self.time) - 1)], time)
        return SessionState(first, end, begin, 1 + self._plays[end] - self._plays[first])

    def fill(
        self, rows: np.ndarray, completion: np.ndarray, state: SessionState, time: np.ndarray, width: int
    ) -> None:
        """Fill the sessions of requests in `rows`, which are initially zero.

        Args:
            rows: [Q] rows, changed in place.
            completion: [N] completion of the log's plays, each with the earlier plays of its title.
            state: From `at`.
            time: [Q] milliseconds of the requests.
            width: Number of stored events.
        """
        length = np.minimum(state.end - state.first, width)
        row, event = ranges(state.end - length, length)
        at = row, width - (state.end[row] - event)
        rows["session_title"][at] = self.title[event]
        play = self.play[event]
        of_play = play >= 0
        value = self.value[event]
        value[of_play] = completion[play[of_play]]
        rows["session_value"][at] = value
        rows["session_age"][at] = np.log1p((time[row] - self.time[event]) / 1000.0)
        rows["session_kind"][at] = self.kind[event]
        rows["session_position"] = state.position


def _latest(user: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the latest of the ends [M] of each user's events so far.

    Ends are compared by their rank, so that no number of users and no range of times overflows.
    """
    values, rank = np.unique(end, return_inverse=True)
    offset = user * len(values)
    return values[np.maximum.accumulate(offset + rank) - offset] if len(values) else end
