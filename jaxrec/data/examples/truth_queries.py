"""Truth of a simulated source in held-out rows, and at the first test and validation queries by hash.

The truth of `data.truth_queries` test queries and `data.validation_truth_queries` validation queries is
stored where it is read: where the config declares signals, or data.targets is "every". The hashes are of
users and times, so that the queries do not depend on partitions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.hashing import mix
from jaxrec.core.ids import DRAWN_LISTS, SERVED, SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.core.tables import Truth
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import Log
from jaxrec.data.events.users import UserKeys
from jaxrec.data.examples import negatives
from jaxrec.data.examples.ranking import Examples, list_widths
from jaxrec.data.storage.evaluation_arrays import (
    DailyPlays,
    EvaluationArrays,
    SeenTitles,
    TruthArrays,
    concatenate_seen,
)

_DRAW = 0x7275_7468  # salt of the hashes
_QUERIES = 512  # queries whose choices are computed at a time
VALIDATION, TEST = SPLITS[splits.VALIDATION], SPLITS[splits.TEST]


class TruthQueries(NamedTuple):
    """Queries of a split of a partition that may be among the first by hash.

    Attributes:
        hash: [Q] uint64.
        row: [Q] int64 row of the partition's split.
        user: [Q] keys of the users.
        time: [Q] int64 milliseconds.
        limit: Number of queries of all partitions to store; 0: none.
    """

    hash: np.ndarray
    row: np.ndarray
    user: np.ndarray
    time: np.ndarray
    limit: int


class PartitionEvaluation(NamedTuple):
    """Arrays of a partition that evaluation reads beside the rows."""

    seen: dict[str, SeenTitles]  # by held-out split
    truth: dict[str, TruthQueries]  # by held-out split whose truth is stored


def select(
    config: Config, truth: Truth | None, log: Log, examples: Examples, user_keys: UserKeys
) -> dict[str, TruthQueries]:
    """Return the first queries of a partition by hash, by held-out split; a split without any is left out.

    Args:
        config: Config of the dataset.
        truth: Truth of the source; None has no queries.
        log: Log of the partition.
        examples: Rows of the partition.
        user_keys: Keys of the partition's held-out users at least.
    """
    if truth is None or not (config.signals or config.data.targets == "every"):
        return {}
    out, data = {}, config.data
    for split, limit in ((VALIDATION, data.validation_truth_queries), (TEST, data.truth_queries)):
        if limit:
            number, time = examples.user_time[split]
            user = log.hash[number]
            drawn = mix(data.seed, _DRAW, user, time)
            row = np.argsort(drawn, kind="stable")[:limit]
            out[split] = TruthQueries(drawn[row], row, user_keys.keys(user[row]), time[row], limit)
    return out


def evaluation_arrays(
    parts: Sequence[PartitionEvaluation],
    rows_before: Mapping[str, Sequence[int] | np.ndarray],
    daily_plays: DailyPlays,
    truth: Truth | None,
    row_of_id: np.ndarray,
) -> EvaluationArrays:
    """Return the arrays of all partitions, with the truth of the stored queries.

    Args:
        parts: Arrays of each partition, in order.
        rows_before: Split -> number of rows before each partition.
        daily_plays: Plays by day.
        truth: Truth of the source.
        row_of_id: [V] row of the catalogue of each title id, without padding and unknown; -1 for none.
    """
    stored: dict[str, TruthArrays] = {}
    if truth is not None:
        for split in parts[0].truth:
            queries = [part.truth[split] for part in parts]
            stored[split] = _truth_arrays(queries, rows_before[split], truth, row_of_id)
    return EvaluationArrays(concatenate_seen(part.seen for part in parts), daily_plays, stored)


def choice_of(truth: Truth, user: np.ndarray, time: np.ndarray, title: np.ndarray) -> np.ndarray:
    """Return the probabilities of choice [N, C] of titles.

    Args:
        truth: Truth of the source.
        user: [N] keys of users.
        time: [N] milliseconds.
        title: [N, C] rows of the catalogue.
    """
    out = np.empty(title.shape, np.float32)
    for start in range(0, len(title), _QUERIES):
        block = slice(start, start + _QUERIES)
        out[block] = np.take_along_axis(truth.choice(user[block], time[block]), title[block], axis=1)
    return out


def _truth_arrays(
    queries: Sequence[TruthQueries],
    rows_before: Sequence[int] | np.ndarray,
    truth: Truth,
    row_of_id: np.ndarray,
) -> TruthArrays:
    """Return the truth of the first queries of a split of all partitions, in the order of its rows."""
    row = np.concatenate([q.row + before for q, before in zip(queries, rows_before, strict=False)])
    user, time = np.concatenate([q.user for q in queries]), np.concatenate([q.time for q in queries])
    first = np.lexsort((row, np.concatenate([q.hash for q in queries])))[: queries[0].limit]
    first = first[np.argsort(row[first])]
    row, user, time = row[first], user[first], time[first]
    choice = np.empty((len(row), len(row_of_id)), np.float32)
    reward, has_title = np.empty(choice.shape, np.float16), row_of_id >= 0
    for start in range(0, len(row), _QUERIES):
        block = slice(start, start + _QUERIES)
        choice[block] = truth.choice(user[block], time[block])[:, row_of_id] * has_title
        reward[block] = truth.reward(user[block], time[block])[:, row_of_id] * has_title
    return TruthArrays(row, choice, reward)


# ---------------------------------------------------------------- the oracle's columns of held-out rows


class ListedTitles(NamedTuple):
    """Numbering of titles, and the layout of the rows that list them.

    Attributes:
        order: [V] row of the catalogue at each popularity rank.
        rank_of_id: [ids] rank of each id.
        layout: Layout of the rows.
    """

    order: np.ndarray
    rank_of_id: np.ndarray
    layout: Layout


def fill_oracle(
    examples: Examples, log: Log, universe: negatives.NegativeUniverse, user_keys: UserKeys,
    titles: ListedTitles, truth: Truth | None, every: bool,
) -> None:  # fmt: skip
    """Fill the columns of held-out rows that depend on a simulator's truth.

    The columns are p/q and p of the K=1 lists, and the mood; NaN without a truth. Where `every` first play is
    a target, all earlier plays are known: p is the probability of choice, and no candidate of p above 0 is a
    title abandoned before.
    """
    layout = titles.layout
    for split in SPLITS[1:]:
        rows = examples.rows[split]
        if truth is None:
            for name in layout.lists:
                rows[f"oracle_{name}"] = rows[f"truth_{name}"] = np.nan
            rows["mood"] = np.nan
            continue
        user, time = examples.user_time[split]
        lists = [
            np.concatenate([rows["target"][:, :1], rows[f"list_{name}"][:, 0]], axis=1)
            for name in DRAWN_LISTS
        ]
        rank = titles.rank_of_id[np.concatenate(lists, axis=1)]
        keys = user_keys.keys(log.hash[user])
        rows["mood"] = truth.mood(keys, time)
        p, abandoned = truth.densities(keys, time, titles.order[rank])
        if every:
            p = choice_of(truth, keys, time, titles.order[rank])
            abandoned = np.where(p > 0, 0, abandoned)
        for l, name in enumerate(DRAWN_LISTS):
            columns = slice(l * (layout.negatives + 1), (l + 1) * (layout.negatives + 1))
            q = negatives.densities(
                universe, user, rank[:, columns], abandoned[:, columns], rows["num_hard"][:, 0],
                list_widths(name, layout.negatives),
            )  # fmt: skip
            rows[f"oracle_{name}"], rows[f"truth_{name}"] = p[:, columns] / q, p[:, columns]
        if layout.has_served:
            _fill_served_oracle(rows, keys, time, titles, truth, every)


def _fill_served_oracle(
    rows: np.ndarray, keys: np.ndarray, time: np.ndarray, titles: ListedTitles, truth: Truth, every: bool
) -> None:
    """Fill p/q and p of the served list, with q of the slate; 0 where no title is listed.

    Candidates of a slate were not played before, which is known of each: so p and q are those of a log whose
    plays are all known, abandoned or not.
    """
    listed = np.flatnonzero(rows[f"list_{SERVED}"][:, 0, 0])
    ids = np.concatenate([rows["target"][:, :1], rows[f"list_{SERVED}"][:, 0]], axis=1)[listed]
    title = titles.order[np.where(ids > 0, titles.rank_of_id[ids], 0)]
    kept, chosen, shown = truth.shown(keys[listed], time[listed], title)
    p = np.where(ids > 0, chosen if every else kept, 0)
    rows[f"truth_{SERVED}"][listed] = p
    rows[f"oracle_{SERVED}"][listed] = p / shown
