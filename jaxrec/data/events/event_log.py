"""The sorted log of a partition's users: states of titles, and histories."""

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.cleaning import completion


class Log(NamedTuple):
    """Events of complete users, sorted by (user, time, title).

    Duplicates are dropped. N events, U users.
    """

    hash: np.ndarray  # [U] uint64, ascending
    split: np.ndarray  # [U] int8, index into SPLITS
    user: np.ndarray  # [N] int64 in [0, U)
    rank: np.ndarray  # [N] int64 popularity rank of the title
    time: np.ndarray  # [N] int64 milliseconds
    viewed: np.ndarray  # [N] int64 milliseconds, -1 throughout where the source has no watch time
    context_categories: np.ndarray  # [N, columns] int32
    context_numbers: np.ndarray  # [N, columns] float32
    user_categories: np.ndarray  # [U, columns] int32
    user_numbers: np.ndarray  # [U, columns] float32


class TitleStats(NamedTuple):
    """Global counts that every partition needs. V titles, in rank order."""

    runtime: np.ndarray  # [V] minutes
    id_of_rank: np.ndarray  # [V] int32
    trending: int  # number of first ranks that make up half of the training users' plays
    hash: np.ndarray  # [V] uint64 of the title's key


class EventState(NamedTuple):
    """State of each event's (user, title) just after the event, and finally.

    All arrays are [N].
    """

    sessions: np.ndarray  # plays of the title so far
    completion: np.ndarray  # [0, 1]
    total: np.ndarray  # final completion
    first: np.ndarray  # bool: the user's first play of the title
    next: np.ndarray  # index of the user's next play of the title, N where none
    start: np.ndarray  # index of the user's first event at the same time: history is strictly earlier
    user_start: np.ndarray  # index of the user's first event


def has_watch_time(log: Log) -> bool:
    """Return False where the source has no watch time (`viewed` is -1)."""
    return bool((log.viewed[:1] >= 0).all())


def event_states(log: Log, runtime: np.ndarray) -> EventState:
    """Compute completion and sessions as of each event.

    Later sessions do not leak into the state of an event.

    Args:
        log: Log of the partition.
        runtime: [V] minutes of the title that `log.rank` indexes.
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
    """Histories of queries, one entry per (query, title)."""

    query: np.ndarray  # ascending
    event: np.ndarray  # the latest play of the title before the query, ascending within the query
    back: np.ndarray  # 1 for the newest


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

    Returns:
        The i of each number, and the numbers.
    """
    index = np.repeat(np.arange(len(start)), length)
    return index, np.arange(len(index)) + np.repeat(start - (np.cumsum(length) - length), length)
