"""Negatives from a user's own events: abandoned titles (hard), and titles that were shown (served)."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.examples import IMPRESSION
from jaxrec.config.schema import Config, Data
from jaxrec.core.hashing import mix
from jaxrec.data.events.event_log import EventState, Log, has_watch_time, ranges
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.signals.records import events_of

_HARD_DRAW, _SERVED_DRAW = 1000, 1001  # salts of the draws
_MAX_ABANDONED = 512  # latest abandoned plays that make the hard pool of a query


class HardPool(NamedTuple):
    """Abandoned titles of each query, drawn as hard negatives."""

    rank: np.ndarray  # [Q, width]
    filled: np.ndarray  # [Q] number of ranks drawn, which come first


@dataclass(frozen=True, eq=False)
class ShownTitles:
    """Titles shown to the users of a partition: its events of the signal "impression".

    Attributes:
        user: [N] users of the log, ascending.
        rank: [N] popularity rank of each title.
        time: [N] int64 milliseconds, ascending for each user.
        window: Longest time from an impression to the play that it led to, in milliseconds.
    """

    user: np.ndarray
    rank: np.ndarray
    time: np.ndarray
    window: int

    @classmethod
    def of_partition(
        cls, config: Config, log: Log, records: np.ndarray, rank_of_row: np.ndarray
    ) -> "ShownTitles":
        """Return the impressions of a partition.

        Args:
            config: Config of the dataset, which declares the signal.
            log: Log of the partition.
            records: Sorted records of the partition's events of signals.
            rank_of_row: [V] popularity rank of each row; -1 for a title that is not in the catalogue yet,
                whose impressions are left out.
        """
        shown = events_of(records, config.signals, IMPRESSION)
        shown = shown[rank_of_row[shown["title"]] >= 0]
        user = np.searchsorted(log.hash, shown["user"])  # sorting kept users of the log only
        window = 1000 * config.data.request_window_seconds
        return cls(user, rank_of_row[shown["title"]], shown["time"], window)

    @cached_property
    def _timeline(self) -> Timeline:
        return Timeline(self.user, self.time)

    def at(self, log: Log, states: EventState, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the impressions of requests: those up to `window` before the play, after the play before.

        Args:
            log: Log of the partition.
            states: States of its events.
            query: [Q] events of the log.

        Returns:
            Index into the queries, and index of the impression, both [sum over queries].
        """
        time, start = log.time[query], states.start[query]
        before = np.where(start > states.user_start[query], log.time[start - 1], np.iinfo(np.int64).min + 1)
        group = self._timeline.groups(log.user[query])
        low = self._timeline.first(group, np.maximum(time - self.window, before + 1))
        high = self._timeline.first(group, time + 1)
        return ranges(low, high - low)


def hard_pool(
    log: Log,
    states: EventState,
    query: np.ndarray,
    targets: np.ndarray,
    key: np.ndarray,
    width: int,
    data: Data,
) -> HardPool:
    """Draw hard negatives: titles that the user abandoned before the query.

    The draw is uniform.
    """
    if not has_watch_time(log):  # without watch time, no title counts as abandoned
        return HardPool(np.zeros((len(query), width), np.int64), np.zeros(len(query), np.int64))
    abandoned = np.nonzero(states.completion < data.abandon_threshold)[0]
    low = np.searchsorted(abandoned, states.user_start[query])
    high = np.searchsorted(abandoned, states.start[query])
    low = np.maximum(low, high - _MAX_ABANDONED)
    row, at = ranges(low, high - low)
    event = abandoned[at]
    live = states.next[event] >= states.start[query][row]
    live &= ~(log.rank[event][:, None] == targets[row]).any(axis=1)
    out, count = _draw(row[live], log.rank[event[live]], key, _HARD_DRAW, width)
    return HardPool(np.maximum(out, 0), count)


def served_pool(
    shown: ShownTitles, log: Log, states: EventState, query: np.ndarray, targets: np.ndarray,
    key: np.ndarray, width: int,
) -> np.ndarray:  # fmt: skip
    """Draw titles that were shown at the request of each query and are none of its targets.

    The draw is uniform, without replacement.

    Args:
        shown: Impressions of the partition.
        log: Log of the partition.
        states: States of its events.
        query: [Q] events of the log.
        targets: [Q, K] ranks that are no negatives.
        key: [Q] uint64 keys of the draws.
        width: Number of columns.

    Returns:
        [Q, width] popularity ranks, then -1 where fewer titles were shown.
    """
    row, at = shown.at(log, states, query)
    rank = shown.rank[at]
    live = ~(rank[:, None] == targets[row]).any(axis=1)
    titles = int(shown.rank.max(initial=0)) + 1
    pair = np.unique(row[live] * titles + rank[live])  # a title may be shown twice
    return _draw(pair // titles, pair % titles, key, _SERVED_DRAW, width)[0]


def shuffle_hard(hard: np.ndarray, n_hard: np.ndarray, key: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Shuffle the real hard columns by a keyed order, before the unused ones.

    Args:
        hard: [N, width] ranks.
        n_hard: [N] number of real columns, which come first.
        key: [N] uint64 keys.
        salt: [N] whole numbers; each gives another order.
    """
    draws = mix(mix(key, salt, _HARD_DRAW)[:, None], hard) >> np.uint64(1)
    draws[np.arange(hard.shape[1])[None] >= n_hard[:, None]] = np.iinfo(np.uint64).max
    return np.take_along_axis(hard, np.argsort(draws, axis=1, kind="stable"), axis=1)


def _draw(
    row: np.ndarray, rank: np.ndarray, key: np.ndarray, salt: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `width` ranks of each query in a keyed order, then -1, and their number.

    Args:
        row: [N] queries, ascending.
        rank: [N] ranks.
        key: [Q] uint64 keys of the queries.
        salt: Salt of the draw.
        width: Number of columns.
    """
    order = np.lexsort((mix(key[row], salt, rank), row))
    row, rank = row[order], rank[order]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    out = np.full((len(key), width), -1, np.int64)
    inside = column < width
    out[row[inside], column[inside]] = rank[inside]
    return out, np.minimum(np.bincount(row, minlength=len(key)), width)
