"""Titles left out of rankings: pairs on the host, bits on a device."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from absl import logging

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.events.event_log import ranges
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.evaluation_arrays import SeenTitles

# Titles left out: all that the user played before the query; those of the stored history; none.
Seen = Literal["all", "stored", "kept"]

_PAIRS = 2**18  # (query, title) pairs processed at a time, which bounds memory


class LeftOutTitles(NamedTuple):
    """Titles left out for each of Q queries; the target of a query competes in any case."""

    seen: Seen  # protocol
    title: np.ndarray  # [S] int32 ids
    first: np.ndarray  # [Q] int64 index of each query's first title in `title`
    num_titles: np.ndarray  # [Q] int64 number of each query's titles

    @classmethod
    def of_users(cls, seen: SeenTitles, user: np.ndarray) -> "LeftOutTitles":
        """Leave out the titles that the user of each query played before the query.

        Args:
            seen: Titles of the split's users.
            user: [Q] user of each query.
        """
        return cls("all", seen.title, seen.start[user], seen.num_titles.astype(np.int64))

    @classmethod
    def of_histories(cls, history: np.ndarray) -> "LeftOutTitles":
        """Leave out the titles of stored histories [Q, L], abandoned titles included."""
        present = history >= FIRST_TITLE
        count = present.sum(axis=1)
        return cls("stored", history[present], np.cumsum(count) - count, count)

    @classmethod
    def nothing(cls, queries: int) -> "LeftOutTitles":
        """Leave out no title."""
        zeros = np.zeros(queries, np.int64)
        return cls("kept", np.empty(0, np.int32), zeros, zeros)

    def pairs(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the titles of queries as pairs of an index into `query` and a title.

        Args:
            query: [N] row indices; -1 has no titles.
        """
        row, at = ranges(self.first[query], np.where(query < 0, 0, self.num_titles[query]))
        return row, self.title[at]

    def chunks(self, query: np.ndarray) -> Iterator[np.ndarray]:
        """Yield consecutive parts of `query` [Q] with about `_PAIRS` pairs each."""
        part = np.cumsum(self.num_titles[query] + 1) // _PAIRS
        yield from np.split(query, np.flatnonzero(np.diff(part)) + 1)

    def contain(self, target: np.ndarray) -> np.ndarray:
        """Return a mask [Q] of the queries whose target is among the titles left out."""
        out = np.zeros(len(target), bool)
        for query in self.chunks(np.arange(len(target))):
            row, title = self.pairs(query)
            out[query[row[title == target[query[row]]]]] = True
        return out

    def bits(self, query: np.ndarray, titles: int) -> np.ndarray:
        """Return the titles of queries as bits, [N, bit_words(titles)] uint32.

        Bit b of word w is set where title 32 w + b is left out. The size does not depend on the number of
        titles that a user played.

        Args:
            query: [N] row indices; -1 has no titles.
            titles: Number V of title ids.
        """
        left_out = np.zeros((len(query), 32 * bit_words(titles)), np.uint8)
        left_out[self.pairs(query)] = 1
        return np.packbits(left_out, axis=1, bitorder="little").view("<u4")


def bit_words(titles: int) -> int:
    """Return the number of 32-bit words that hold a bit for each of `titles`."""
    return -(-titles // 32)


def left_out_titles(
    dataset: Dataset, split: str, rows: np.ndarray, seen: Seen, index: np.ndarray | None = None
) -> LeftOutTitles:
    """Return the titles left out of the rankings of a split's queries.

    Without seen sets in the dataset, "all" becomes "stored", with a line in the log.

    Args:
        dataset: The dataset.
        split: Name of the held-out split.
        rows: Q rows of the split.
        seen: Protocol.
        index: [Q] indices of the rows in the split; None: they are all of it.
    """
    if seen == "kept":
        return LeftOutTitles.nothing(len(rows))
    stored = dataset.seen_titles(split) if seen == "all" else None
    if stored is not None:
        if index is not None:
            stored = stored._replace(num_titles=stored.num_titles[index])
        return LeftOutTitles.of_users(stored, rows["user"])
    if seen == "all":
        logging.warning(
            "dataset %s was prepared before seen sets were stored; titles of the stored history are left out",
            dataset.directory,
        )
    return LeftOutTitles.of_histories(rows["history_title"])
