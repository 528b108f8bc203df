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
from jaxrec.data.storage.evaluation_arrays import SeenTitles


def build(
    log: Log, examples: Examples, catalogue: TitleStats, data: Data, strictly_earlier: bool
) -> dict[str, SeenTitles]:
    """Return the seen titles of each held-out split.

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
