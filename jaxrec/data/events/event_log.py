"""The sorted log of a partition's users: states of titles, and histories."""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.data.events.cleaning import completion


class Log(NamedTuple):
    """Events of complete users, sorted by (user, time, title).

    Duplicates are dropped. N events, U users.

    Attributes:
        hash: [U] uint64, ascending.
        split: [U] int8, index into SPLITS.
        user: [N] int64 in [0, U).
        rank: [N] int64 popularity rank of the title.
        time: [N] int64 milliseconds since 1970, UTC.
        viewed: [N] int64 milliseconds, -1 throughout where the source has no watch time.
        context_categories: [N, columns] int32.
        context_numbers: [N, columns] float32.
        user_categories: [U, columns] int32.
        user_numbers: [U, columns] float32.
    """

    hash: np.ndarray
    split: np.ndarray
    user: np.ndarray
    rank: np.ndarray
    time: np.ndarray
    viewed: np.ndarray
    context_categories: np.ndarray
    context_numbers: np.ndarray
    user_categories: np.ndarray
    user_numbers: np.ndarray


class TitleStats(NamedTuple):
    """Global counts that every partition needs. V titles, in rank order.

    Attributes:
        runtime: [V] minutes.
        id_of_rank: [V] int32.
        trending: Number of first ranks that make up half of the training users' plays.
        hash: [V] uint64 of the title's key.
    """

    runtime: np.ndarray
    id_of_rank: np.ndarray
    trending: int
    hash: np.ndarray


class EventState(NamedTuple):
    """State of each event's (user, title) just after the event, and finally.

    All arrays are [N].

    Attributes:
        sessions: Number of plays of the title so far.
        completion: Completion so far, in [0, 1].
        total: Final completion, in [0, 1].
        first: Bool, True for the user's first play of the title.
        next: Index of the user's next play of the title, N for none.
        start: Index of the user's first event at the same time. The history of an event is strictly earlier.
        user_start: Index of the user's first event.
    """

    sessions: np.ndarray
    completion: np.ndarray
    total: np.ndarray
    first: np.ndarray
    next: np.ndarray
    start: np.ndarray
    user_start: np.ndarray

    def may_be_target(self, data: Data) -> np.ndarray:
        """Return a mask [N] of the events that `data.targets` selects, by final completion and first play."""
        if data.targets == "every":
            return self.first
        kept = self.total >= data.abandon_threshold
        return kept & self.first if data.targets == "new" else kept


def has_watch_time(log: Log) -> bool:
    """Return False where the source has no watch time (`viewed` is -1)."""
    return bool((log.viewed[:1] >= 0).all())


def event_states(log: Log, runtime: np.ndarray) -> EventState:
    """Compute completion and sessions as of each event.

    Later sessions do not leak into the state of an event.

    Args:
        log: Log of the partition, with N events.
        runtime: [V] minutes of the title that `log.rank` indexes.

    Returns:
        Arrays [N], in the order of the log.
    """
    n = len(log.user)
    pair = log.user * len(runtime) + log.rank
    order = np.argsort(pair, kind="stable")
    new = np.diff(pair[order], prepend=-1) != 0
    begin = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    end = np.append(np.nonzero(new)[0][1:], n)[np.cumsum(new) - 1] - 1 if n else np.arange(0)
    sessions, viewed = np.empty(n, np.int64), np.empty(n, np.int64)
    total, following = np.empty(n, np.int64), np.full(n, n)
    running = np.cumsum(log.viewed[order])
    base = running[begin] - log.viewed[order][begin]
    sessions[order] = np.arange(n) - begin + 1
    viewed[order] = running - base
    total[order] = running[end] - base
    following[order[:-1]] = np.where(new[1:], n, order[1:])
    first = np.zeros(n, bool)
    first[order[new]] = True
    index = np.arange(n)
    new_user = np.diff(log.user, prepend=-1) != 0
    new_time = new_user | (np.diff(log.time, prepend=0) != 0)
    minutes = runtime[log.rank]

    def completion_of(milliseconds: np.ndarray) -> np.ndarray:
        """Return completion; 1 throughout where the source has no watch time.

        The runtimes of such a source may be missing too.
        """
        return completion(milliseconds, minutes) if has_watch_time(log) else np.ones(n)

    return EventState(
        sessions,
        completion_of(viewed),
        completion_of(total),
        first,
        following,
        np.maximum.accumulate(np.where(new_time, index, 0)),
        np.maximum.accumulate(np.where(new_user, index, 0)),
    )


class PastPlays(NamedTuple):
    """Histories of queries, one entry per (query, title).

    Attributes:
        query: Index of the query, ascending.
        event: Index of the latest play of the title before the query, ascending within a query.
        back: Position of the title from the newest, which is 1.
    """

    query: np.ndarray
    event: np.ndarray
    back: np.ndarray


def last_plays(start: np.ndarray, first: np.ndarray, following: np.ndarray, width: int) -> PastPlays:
    """Return the latest play of each of the last `width` titles of every query.

    The titles are distinct, and the plays strictly before the query.

    The search doubles the number of events read for the queries whose history is not yet complete.

    Args:
        start: [Q] end of each query's past: the first event that is not strictly earlier.
        first: [Q] begin of each query's past: the user's first event.
        following: [N] `EventState.next`.
        width: Maximum number of titles per query.
    """
    passes, pending, span = [], np.arange(len(start)), 2 * width
    while len(pending):
        available = start[pending] - first[pending]
        length = np.minimum(available, span)
        query, event = ranges(start[pending] - length, length)
        live = following[event] >= start[pending][query]
        query, event = query[live], event[live]
        back = np.searchsorted(query, query, side="right") - np.arange(len(query))
        done = (np.bincount(query, minlength=len(pending)) >= width) | (available <= span)
        kept = (back <= width) & done[query]
        passes.append(PastPlays(pending[query[kept]], event[kept], back[kept]))
        pending, span = pending[~done], span * 2
    if len(passes) == 1:
        return passes[0]
    past = PastPlays(
        *(np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*passes, strict=True))
    )
    order = np.argsort(past.query, kind="stable")
    return PastPlays(*(column[order] for column in past))


def ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges start[i] to start[i] + length[i] - 1 over i.

    Args:
        start: [M] first number of each range.
        length: [M] number of numbers in each range, 0 or more.

    Returns:
        The i of each number and the numbers, both int64 [sum of length].
    """
    index = np.repeat(np.arange(len(start)), length)
    return index, np.arange(len(index)) + np.repeat(start - (np.cumsum(length) - length), length)
