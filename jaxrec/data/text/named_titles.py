"""Titles by the n-grams of their names: those that match a text the most, which a user has not seen.

The weight of an n-gram is log(1 + titles / titles that have it), as in TF-IDF; a match is the sum of the
weights of the n-grams that a text and a name share. Of equal matches the more popular title is the first.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.examples.negatives import NegativeUniverse
from jaxrec.data.text.ngrams import MOST, SIZE

_DECIMALS = 9  # of matches: sums that differ by rounding alone are equal
_PAIRS = 2**21  # pairs of a text and a title at a time: four arrays of 8 bytes for each


class NamedTitles(NamedTuple):
    """Titles of each n-gram, by popularity rank.

    Attributes:
        column: First column of the text among the categories of the context.
        titles: Number of titles.
        start: [SIZE + 1] the range of each n-gram in `rank`.
        rank: [N] popularity ranks of the titles that have the n-gram, ascending within an n-gram.
    """

    column: int
    titles: int
    start: np.ndarray
    rank: np.ndarray

    def best(
        self, context: np.ndarray, user: np.ndarray, universe: NegativeUniverse, most: int
    ) -> np.ndarray:
        """Return the ranks [Q, most] of the titles that match best, then -1.

        Args:
            context: [Q, columns] categories of the context.
            user: [Q] users of the universe.
            universe: Titles that each user has not seen; others are left out.
            most: Number of titles.
        """
        gram = context[:, self.column : self.column + MOST]
        counts = np.diff(self.start)
        pairs = np.where(gram > UNKNOWN, counts[gram], 0).sum(axis=1)
        out, ends = np.full((len(gram), most), -1), np.cumsum(pairs)
        first = 0
        while first < len(gram):
            limit = ends[first] - pairs[first] + _PAIRS
            last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
            span = slice(first, last)
            out[span] = self._best(gram[span], user[span], universe, most)
            first = last
        return out

    def matches(self, context: np.ndarray) -> np.ndarray:
        """Return the match [Q, titles] float64 of every title, by popularity rank; memory grows with Q."""
        query, rank, weight = self._pairs(context[:, self.column : self.column + MOST])
        shape = len(context), self.titles
        return np.bincount(query * self.titles + rank, weight, minlength=shape[0] * shape[1]).reshape(shape)

    def _pairs(self, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the texts, the ranks and the weights of all n-grams that a text and a name share."""
        query, slot = np.nonzero(gram > UNKNOWN)
        gram = gram[query, slot]
        length = np.diff(self.start)[gram]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        rank = self.rank[np.repeat(self.start[gram], length) + within]
        weight = np.repeat(np.log1p(self.titles / np.maximum(length, 1)), length)
        return np.repeat(query, length), rank, weight

    def _best(self, gram: np.ndarray, user: np.ndarray, universe: NegativeUniverse, most: int) -> np.ndarray:
        """Return the ranks [Q, most] of the best titles of few texts."""
        query, rank, weight = self._pairs(gram)
        pair, index = np.unique(query * self.titles + rank, return_inverse=True)
        match = np.round(np.bincount(index, weight, minlength=len(pair)), _DECIMALS)
        query, rank = pair // self.titles, pair % self.titles
        is_new = ~_has_seen(universe, user[query], rank)
        query, rank, match = query[is_new], rank[is_new], match[is_new]
        order = np.lexsort((rank, -match, query))
        query, rank = query[order], rank[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept, out = place < most, np.full((len(user), most), -1)
        out[query[kept], place[kept]] = rank[kept]
        return out


def named_titles(layout: Layout, categories: np.ndarray) -> NamedTitles:
    """Return the titles by the n-grams of their first text, for the first text of the context.

    Args:
        layout: Layout of the rows.
        categories: [titles, columns] int32 ids of the features of titles, by popularity rank.
    """
    name, query = (next(f for f in layout.of(where) if f.kind == "text") for where in ("title", "context"))
    first = layout.category_column("title", name.name)
    rank, slot = np.nonzero(categories[:, first : first + MOST] > UNKNOWN)
    gram = categories[rank, first + slot]
    order = np.argsort(gram, kind="stable")
    start = np.searchsorted(gram[order], np.arange(SIZE + 1))
    return NamedTitles(layout.category_column("context", query.name), len(categories), start, rank[order])


def _has_seen(universe: NegativeUniverse, user: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return whether users [N] have seen the titles of ranks [N]."""
    of = np.repeat(np.arange(len(universe.start) - 1), np.diff(universe.start))
    number = np.arange(len(of)) - universe.start[of]
    seen = universe.shifted - of * (universe.titles + 1) + number
    keys, wanted = of * universe.titles + seen, user * universe.titles + rank
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return keys[at] == wanted if len(keys) else np.zeros(len(user), bool)
