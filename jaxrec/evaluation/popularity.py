"""Popularity over the whole catalogue: of all plays, and of the last 7 days."""

from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.loading.left_out import LeftOutTitles
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.storage.evaluation_arrays import SECONDS_PER_DAY, DailyPlays

RECENT_DAYS = 7


class TitleOrder(NamedTuple):
    """An order of the whole catalogue."""

    rank_of_id: np.ndarray  # [V] from 0; V for padding and unknown
    id_of_rank: np.ndarray  # [titles]


def popularity_ranks(
    target: np.ndarray, arrays: Arrays, left_out: LeftOutTitles, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank all titles by training plays, for each query.

    Args:
        target: [Q] ids.
        arrays: Statistics of titles.
        left_out: Titles that neither compete with the target nor are recommended.
        top: Number of recommended titles per query.

    Returns:
        Ranks [Q] of the targets, from 1, and ids [Q, top] of the most played titles, 0 for none.
    """
    ranks, shown = _empty(target, top)
    order = TitleOrder(arrays.rank_of_id, arrays.id_of_rank)
    _fill_ranks(order, np.arange(len(target)), target, left_out, ranks, shown)
    return ranks, shown


def recent_popularity_ranks(
    target: np.ndarray, query_time: np.ndarray, daily: DailyPlays, arrays: Arrays, left_out: LeftOutTitles,
    top: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rank all titles by the plays of the `RECENT_DAYS` days before the day (UTC) of each query.

    Plays of the query's own day are not counted, so that no later play is. Titles with equally many plays are
    in the order of all training plays.

    Args:
        target: [Q] ids.
        query_time: [Q] seconds since 1970.
        daily: Plays by day.
        arrays: Statistics of titles.
        left_out: Titles that neither compete with the target nor are recommended.
        top: Number of recommended titles per query.

    Returns:
        Ranks [Q] of the targets, from 1, and ids [Q, top] of the titles, 0 for none.
    """
    ranks, shown = _empty(target, top)
    day = query_time.astype(np.int64) // SECONDS_PER_DAY
    by_day = np.argsort(day, kind="stable")
    for query in np.split(by_day, np.flatnonzero(np.diff(day[by_day])) + 1):
        if len(query):
            order = _recent_order(int(day[query[0]]), daily, arrays)
            _fill_ranks(order, query, target, left_out, ranks, shown)
    return ranks, shown


def _recent_order(day: int, daily: DailyPlays, arrays: Arrays) -> TitleOrder:
    """Return the order of titles by the plays of the days before `day`."""
    first, end = np.searchsorted(daily.day, [day - RECENT_DAYS, day])
    plays = np.bincount(daily.title[first:end], daily.plays[first:end], len(arrays.rank_of_id))
    played = np.flatnonzero(plays)
    played = played[np.lexsort((arrays.rank_of_id[played], -plays[played]))]
    id_of_rank = np.concatenate([played, arrays.id_of_rank[plays[arrays.id_of_rank] == 0]])
    rank_of_id = np.full(len(plays), len(plays))
    rank_of_id[id_of_rank] = np.arange(len(id_of_rank))
    return TitleOrder(rank_of_id, id_of_rank)


def _empty(target: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(len(target), np.int64), np.empty((len(target), top), np.int32)


def _fill_ranks(
    order: TitleOrder, queries: np.ndarray, target: np.ndarray, left_out: LeftOutTitles, ranks: np.ndarray,
    shown: np.ndarray,
) -> None:  # fmt: skip
    """Fill `ranks` [Q] and `shown` [Q, top] of some queries, in memory linear in their titles left out.

    Args:
        order: Order of the titles.
        queries: Row indices to fill.
        target: [Q] ids.
        left_out: Titles left out.
        ranks: Ranks of the targets, from 1; written.
        shown: Recommended ids, 0 for none; written.
    """
    num_ids = len(order.rank_of_id)
    for query in left_out.chunks(queries):
        own_rank = order.rank_of_id[target[query]].astype(np.int64)
        row, title = left_out.pairs(query)
        rivals = (title != target[query[row]]) & (title >= FIRST_TITLE)
        pair = np.unique(row[rivals] * num_ids + order.rank_of_id[title[rivals]])
        row, rank = np.divmod(pair, num_ids)
        ranks[query] = 1 + own_rank - np.bincount(row[rank < own_rank[row]], minlength=len(query))
        # The rank of the j-th title that is left is j plus the number of left-out ranks at or before it.
        shifted = rank - (np.arange(len(row)) - np.searchsorted(row, np.arange(len(query)))[row])
        for j in range(shown.shape[1]):
            place = j + np.bincount(row[shifted <= j], minlength=len(query))
            exists = place < len(order.id_of_rank)
            shown[query, j] = np.where(exists, order.id_of_rank[np.where(exists, place, 0)], 0)
