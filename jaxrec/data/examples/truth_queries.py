"""Test queries whose truth is stored: the first `data.truth_queries` by hash, of a simulated source.

The truth is stored where it is read: where the config declares signals, or data.targets is "every". The
hashes are of users and times, so that the queries do not depend on partitions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.hashing import mix
from jaxrec.core.ids import SPLITS
from jaxrec.core.tables import Truth
from jaxrec.data.events import splits
from jaxrec.data.events.event_log import Log
from jaxrec.data.events.users import UserKeys
from jaxrec.data.examples.ranking import Examples
from jaxrec.data.storage.evaluation_arrays import (
    DailyPlays,
    EvaluationArrays,
    SeenTitles,
    TruthArrays,
    concatenate_seen,
)

_DRAW = 0x7275_7468  # salt of the hashes
_QUERIES = 512  # queries whose choices are computed at a time
TEST = SPLITS[splits.TEST]


class TruthQueries(NamedTuple):
    """Test queries of a partition that may be among the first by hash.

    Attributes:
        hash: [Q] uint64.
        row: [Q] int64 row of the partition's test split.
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
    truth: TruthQueries


def select(
    config: Config, truth: Truth | None, log: Log, examples: Examples, user_keys: UserKeys
) -> TruthQueries:
    """Return the first test queries of a partition by hash.

    Args:
        config: Config of the dataset.
        truth: Truth of the source; None has no queries.
        log: Log of the partition.
        examples: Rows of the partition.
        user_keys: Keys of the partition's held-out users at least.
    """
    is_read = config.signals or config.data.targets == "every"
    limit = config.data.truth_queries if truth is not None and is_read else 0
    number, time = examples.user_time[TEST]
    user = log.hash[number]
    drawn = mix(config.data.seed, _DRAW, user, time)
    row = np.argsort(drawn, kind="stable")[:limit]
    return TruthQueries(drawn[row], row, user_keys.keys(user[row]), time[row], limit)


def evaluation_arrays(
    parts: Sequence[PartitionEvaluation],
    rows_before: Sequence[int],
    daily_plays: DailyPlays,
    truth: Truth | None,
    row_of_id: np.ndarray,
) -> EvaluationArrays:
    """Return the arrays of all partitions, with the truth of the stored queries.

    Args:
        parts: Arrays of each partition, in order.
        rows_before: Number of test rows before each partition.
        daily_plays: Plays by day.
        truth: Truth of the source.
        row_of_id: [V] row of the catalogue of each title id, without padding and unknown.
    """
    limit = parts[0].truth.limit
    stored = _truth_arrays(parts, rows_before, truth, row_of_id) if truth is not None and limit else None
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
    parts: Sequence[PartitionEvaluation], rows_before: Sequence[int], truth: Truth, row_of_id: np.ndarray
) -> TruthArrays:
    """Return the truth of the first queries of all partitions, in the order of the test rows."""
    queries = [part.truth for part in parts]
    row = np.concatenate([q.row + before for q, before in zip(queries, rows_before, strict=False)])
    user, time = np.concatenate([q.user for q in queries]), np.concatenate([q.time for q in queries])
    first = np.lexsort((row, np.concatenate([q.hash for q in queries])))[: queries[0].limit]
    first = first[np.argsort(row[first])]
    row, user, time = row[first], user[first], time[first]
    choice = np.empty((len(row), len(row_of_id)), np.float32)
    reward = np.empty(choice.shape, np.float16)
    for start in range(0, len(row), _QUERIES):
        block = slice(start, start + _QUERIES)
        choice[block] = truth.choice(user[block], time[block])[:, row_of_id]
        reward[block] = truth.reward(user[block], time[block])[:, row_of_id]
    return TruthArrays(row, choice, reward)
