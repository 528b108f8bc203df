"""Titles that held-out users played before their queries.

A history holds the latest titles only. A title that the user played earlier is still no new recommendation,
so `--seen all` leaves out the whole set.
"""

import numpy as np

from jaxrec.config.schema import Data
from jaxrec.core.ids import SPLITS
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.storage.evaluation_arrays import SeenTitles


def build(
    log: Log, examples: Examples, catalogue: TitleStats, data: Data, strictly_earlier: bool
) -> dict[str, SeenTitles]:
    """Return the seen titles of each held-out split.

    Exposures are no events of the log: the titles first played strictly before their time count.

    Args:
        log: Log of the partition.
        examples: Rows of the partition.
        catalogue: Titles by popularity rank.
        data: Settings with the seed, which orders plays of the same time (`splits.sort_order`).
        strictly_earlier: True to count the titles first played strictly before the time of a query, like the
            history of a request. False to count also the titles that precede the query in the order of
            plays of the same time, like the history of a sequence.
    """
    return {
        split: _split_titles(
            log, examples.users[split], examples.query[split], catalogue, data, strictly_earlier
        )
        if split in examples.query
        else _titles_before(log, examples.users[split], *examples.user_time[split], catalogue)
        for split in SPLITS[1:]
    }


def _split_titles(
    log: Log, users: np.ndarray, query: np.ndarray, catalogue: TitleStats, data: Data, strictly_earlier: bool
) -> SeenTitles:
    """Return the seen titles of users (by hash, ascending) before queries (events of the log)."""
    number = np.full(len(log.hash), -1)
    number[np.searchsorted(log.hash, users)] = np.arange(len(users))
    event = np.flatnonzero(number[log.user] >= 0)
    user, time, rank = log.user[event], log.time[event], log.rank[event]
    order = splits.sort_order(data, log.hash, user, time, catalogue.hash[rank])
    event, user, time, rank = event[order], number[user[order]], time[order], rank[order]
    is_first = np.zeros(len(event), bool)
    is_first[np.unique(user * len(catalogue.runtime) + rank, return_index=True)[1]] = True
    start = np.searchsorted(user[is_first], np.arange(len(users) + 1))

    place = np.empty(len(log.user), np.int64)
    place[event] = np.arange(len(event))
    if strictly_earlier:
        new = (np.diff(user, prepend=-1) != 0) | (np.diff(time, prepend=0) != 0)
        place[event] = np.maximum.accumulate(np.where(new, np.arange(len(event)), 0))
    first_plays_before = np.cumsum(is_first) - is_first
    num_titles = first_plays_before[place[query]] - start[number[log.user[query]]]
    return SeenTitles(
        catalogue.id_of_rank[rank[is_first]].astype(np.int32),
        start.astype(np.int64),
        num_titles.astype(np.uint32),
        (log.time[query] // 1000).astype(np.uint32),
    )


def _titles_before(
    log: Log, users: np.ndarray, query_user: np.ndarray, query_time: np.ndarray, catalogue: TitleStats
) -> SeenTitles:
    """Return the seen titles of users (by hash, ascending) before the times of queries.

    Args:
        log: Log of the partition.
        users: [U] hashes of the users of the split.
        query_user: [Q] number of each query's user in the log, ascending.
        query_time: [Q] milliseconds.
        catalogue: Titles by popularity rank.
    """
    number = np.full(len(log.hash), -1)
    number[np.searchsorted(log.hash, users)] = np.arange(len(users))
    pair = log.user * len(catalogue.runtime) + log.rank
    first = np.sort(np.unique(pair, return_index=True)[1])  # the log is sorted by user, then time
    first = first[number[log.user[first]] >= 0]
    start = np.searchsorted(number[log.user[first]], np.arange(len(users) + 1))
    plays = Timeline(log.user[first], log.time[first])
    before = plays.first(plays.groups(query_user), query_time)
    return SeenTitles(
        catalogue.id_of_rank[log.rank[first]].astype(np.int32),
        start.astype(np.int64),
        (before - start[number[query_user]]).astype(np.uint32),
        (query_time // 1000).astype(np.uint32),
    )
