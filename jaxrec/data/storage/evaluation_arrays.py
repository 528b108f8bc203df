"""Arrays for evaluation, beside the rows: seen titles, plays by day, a simulator's truth.

The arrays are files of the dataset, and enter neither its digest nor its fingerprint. A dataset prepared
before they were stored has none.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

SECONDS_PER_DAY = 86_400
_MILLISECONDS_PER_DAY = 1000 * SECONDS_PER_DAY
_TITLE_BITS = np.int64(2**31)  # keys are day * 2**31 + title


class SeenTitles(NamedTuple):
    """Distinct titles of each user of a held-out split, in the order of first play.

    Every play counts, also of a title that was abandoned. U users, S titles of all users, Q queries.
    """

    title: np.ndarray  # [S] int32 ids, one user after another
    start: np.ndarray  # [U + 1] int64 index of each user's first title
    num_titles: np.ndarray  # [Q] uint32 number of the user's titles that were first played before the query
    query_time: np.ndarray  # [Q] uint32 seconds since 1970

    @classmethod
    def concatenate(cls, parts: Iterable["SeenTitles"]) -> "SeenTitles":
        """Return the titles of consecutive groups of users."""
        titles, starts, counts, times = zip(*parts, strict=True)
        sizes = np.concatenate([np.diff(start) for start in starts])
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(np.concatenate(titles), start, np.concatenate(counts), np.concatenate(times))


class DailyPlays(NamedTuple):
    """Plays of titles by day (UTC), sorted by day, then title; entries without plays are left out.

    A user and a title count once, on the day of the first play that counts.
    """

    day: np.ndarray  # [N] int32 days since 1970
    title: np.ndarray  # [N] int32; rows of the source's catalogue during preparation, ids in a dataset
    plays: np.ndarray  # [N] uint32

    @classmethod
    def of_plays(cls, time: np.ndarray, title: np.ndarray) -> "DailyPlays":
        """Count plays.

        Args:
            time: [P] milliseconds.
            title: [P] whole numbers below 2**31.
        """
        return cls._of_keys(time // _MILLISECONDS_PER_DAY * _TITLE_BITS + title, np.ones(len(time), np.int64))

    @classmethod
    def total(cls, parts: Iterable["DailyPlays"], new_title: np.ndarray) -> "DailyPlays":
        """Return the sum of parts.

        Args:
            parts: Plays of partitions, in any order.
            new_title: New number of each title.
        """
        days, titles, counts = zip(*parts, strict=True)
        title = new_title[np.concatenate(titles)].astype(np.int64)
        keys = np.concatenate(days).astype(np.int64) * _TITLE_BITS + title
        return cls._of_keys(keys, np.concatenate(counts))

    @classmethod
    def _of_keys(cls, keys: np.ndarray, counts: np.ndarray) -> "DailyPlays":
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
        totals = np.add.reduceat(counts[order], first) if len(first) else counts
        day, title = np.divmod(keys[first], _TITLE_BITS)
        return cls(day.astype(np.int32), title.astype(np.int32), totals.astype(np.uint32))


class TruthArrays(NamedTuple):
    """Truth of a simulated source at some queries; columns are title ids without padding and unknown."""

    rows: np.ndarray  # [Q] int64 rows of the split, ascending
    choice: np.ndarray  # [Q, V] float32 probability of each title as the next play; sums to 1
    reward: np.ndarray  # [Q, V] float16 enjoyment of each title, in [0, 1]


class EvaluationArrays(NamedTuple):
    """All arrays of a dataset that evaluation reads beside the rows."""

    seen: dict[str, SeenTitles]  # by held-out split
    daily_plays: DailyPlays
    truth: Mapping[str, TruthArrays]  # by held-out split whose truth is stored

    def files(self) -> dict[str, np.ndarray]:
        """Return the arrays by the name of their file, without its suffix."""
        groups: dict[str, SeenTitles | DailyPlays | TruthArrays] = {
            seen_prefix(s): seen for s, seen in self.seen.items()
        }
        groups[DAILY_PLAYS] = self.daily_plays
        groups |= {truth_prefix(split): truth for split, truth in self.truth.items()}
        return {f"{prefix}_{name}": a for prefix, g in groups.items() for name, a in g._asdict().items()}


DAILY_PLAYS = "daily_plays"  # first part of the names of files


def truth_prefix(split: str) -> str:
    """Return the first part of the names of the files of a split's truth."""
    return "truth" if split == "test" else f"truth_{split}"


def seen_prefix(split: str) -> str:
    """Return the first part of the names of a split's files."""
    return f"seen_{split}"


def concatenate_seen(parts: Iterable[Mapping[str, SeenTitles]]) -> dict[str, SeenTitles]:
    """Return the seen titles of all partitions by split; partitions come in order."""
    in_order = list(parts)
    return {split: SeenTitles.concatenate(part[split] for part in in_order) for split in in_order[0]}
