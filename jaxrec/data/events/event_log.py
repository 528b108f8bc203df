"""The sorted log of a partition's users: how each title stood as of an event, and what lies before it."""

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.cleaning import completion


class Log(NamedTuple):
    """Events of whole users, sorted by (user, time, title), copies dropped. N events, U users."""

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
    """Global counts every partition needs. V titles, in rank order."""

    runtime: np.ndarray  # [V] minutes
    id_of_rank: np.ndarray  # [V] int32
    trending: int  # how many first ranks make up half of the training users' plays
    hash: np.ndarray  # [V] uint64 of the title's key


class EventState(NamedTuple):
    """Each event's (user, title) as it stood just after the event, and in the end. All [N]."""

    sessions: np.ndarray
    completion: np.ndarray  # [0, 1]
    total: np.ndarray  # completion in the end
    first: np.ndarray  # bool: the first play of the title
    next: np.ndarray  # index of the user's next play of it, N where none
    start: np.ndarray  # index of the first event at the same time: history is strictly earlier
    user_start: np.ndarray  # index of the user's first event


def has_watch_time(log: Log) -> bool:
    return bool((log.viewed[:1] >= 0).all())


def event_states(log: Log, runtime: np.ndarray) -> EventState:
    """Completion and sessions as of each event, so that later sessions do not leak back."""
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

    def share(milliseconds: np.ndarray) -> np.ndarray:
        """Completion; 1 throughout of a source without watch time, whose runtimes may be missing too."""
        return completion(milliseconds, minutes) if has_watch_time(log) else np.ones(n)

    return EventState(
        sessions,
        share(viewed),
        share(total),
        first,
        following,
        np.maximum.accumulate(np.where(new_time, index, 0)),
        np.maximum.accumulate(np.where(new_user, index, 0)),
    )


class PastPlays(NamedTuple):
    """What requests may look back on, an entry a (request, title)."""

    request: np.ndarray  # ascending
    event: np.ndarray  # the latest play of the title before the request, ascending within it
    back: np.ndarray  # 1 for the newest


def last_plays(start: np.ndarray, first: np.ndarray, following: np.ndarray, width: int) -> PastPlays:
    """The latest plays, before event `start`, of each of the last `width` titles of Q requests.

    start, first [Q] bound each request's past; following [N] is `AsOf.next`. Looks back twice as far
    for those not yet complete.
    """
    found, todo, span = [], np.arange(len(start)), 2 * width
    while len(todo):
        behind = start[todo] - first[todo]
        length = np.minimum(behind, span)
        request, event = ranges(start[todo] - length, length)
        live = following[event] >= start[todo][request]
        request, event = request[live], event[live]
        back = np.searchsorted(request, request, side="right") - np.arange(len(request))
        done = (np.bincount(request, minlength=len(todo)) >= width) | (behind <= span)
        kept = (back <= width) & done[request]
        found.append(PastPlays(todo[request[kept]], event[kept], back[kept]))
        todo, span = todo[~done], span * 2
    if len(found) == 1:
        return found[0]
    past = PastPlays(*(np.concatenate([np.empty(0, np.int64), *part]) for part in zip(*found, strict=True)))
    order = np.argsort(past.request, kind="stable")
    return PastPlays(*(part[order] for part in past))


def ranges(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers start[i] to start[i] + length[i] of every i, after one another, and the i of each."""
    which = np.repeat(np.arange(len(start)), length)
    return which, np.arange(len(which)) + np.repeat(start - (np.cumsum(length) - length), length)
