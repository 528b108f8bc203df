"""Groups of queries: by history length, completion, popularity of the target, and segment of the user."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE, PAD
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.arrays import Arrays

_LENGTHS = (1, 2, 3, 5, 8, 13, 21, 50, 100)  # first of each group of history lengths
_COMPLETIONS = {"under 25%": 0.25, "25 to 50%": 0.5, "50 to 75%": 0.75, "75 to 95%": 0.95}
_DECILES = 10
_MOST_VALUES, _MOST_SEGMENTS = 20, 3  # of a segment feature, and of these features


class Grouping(NamedTuple):
    """A partition of Q queries.

    Attributes:
        key: Name in the file.
        title: Heading for readers.
        group: [Q] group of each query, from 0; -1 for none.
        names: Name of each group, in the order in which a table shows them.
    """

    key: str
    title: str
    group: np.ndarray
    names: list[str]


def span_names(firsts: Sequence[int]) -> list[str]:
    """Return names of the spans that begin at whole numbers, such as "1", "2 to 4" and "5 or more"."""
    spans = ((a, b - 1) for a, b in itertools.pairwise(firsts))
    return [str(a) if a == b else f"{a} to {b}" for a, b in spans] + [f"{firsts[-1]} or more"]


def group_queries(
    rows: np.ndarray, arrays: Arrays, layout: Layout, categories: dict[str, list], keeps_abandoned: bool
) -> list[Grouping]:
    """Return the groupings that have at least two nonempty groups.

    Args:
        rows: The Q held-out rows.
        arrays: Statistics of titles.
        layout: Layout of the rows.
        categories: Values of each categorical feature, in the order of their ids.
        keeps_abandoned: True if the model reads abandoned titles of the history.
    """
    read = rows["history_title"] != PAD
    if "history_abandoned" in (rows.dtype.names or ()) and not keeps_abandoned:
        read &= rows["history_abandoned"] == 0
    length = np.searchsorted(_LENGTHS, read.sum(1), side="right")
    groupings = [
        Grouping("history", "titles in the history", length, ["none", *span_names(_LENGTHS)]),
        *_by_completion(rows["target_completion"][:, 0]),
        _by_popularity(rows["target"][:, 0], arrays),
        *_by_segment(rows, layout, categories),
    ]
    return [g for g in groupings if len(np.unique(g.group[g.group >= 0])) > 1]


def _by_completion(completion: np.ndarray) -> Iterator[Grouping]:
    """Yield the groups by the completion [Q] of the title that was watched next."""
    edges = np.array(list(_COMPLETIONS.values()), completion.dtype)
    group = np.searchsorted(edges, completion, side="right")
    group = np.where(np.isnan(completion), -1, group)
    yield Grouping(
        "completion", "completion of the title that was watched next", group, [*_COMPLETIONS, "95% or more"]
    )


def _by_popularity(target: np.ndarray, arrays: Arrays) -> Grouping:
    """Group queries by the popularity of the target: tenths of all titles, the most played first."""
    titles = len(arrays.id_of_rank)
    rank = arrays.rank_of_id[target].astype(np.int64)
    group = np.where(rank < titles, rank * _DECILES // max(titles, 1), -1)
    names = ["1 (most played)", *map(str, range(2, _DECILES)), f"{_DECILES} (least played)"]
    return Grouping("popularity", "popularity decile of the title that was watched next", group, names)


def _by_segment(rows: np.ndarray, layout: Layout, categories: dict[str, list]) -> Iterator[Grouping]:
    """Yield the groups by the first categorical features of users that have few values.

    Rows of sequences hold no features of users, though `data.only` may name one.
    """
    if "user_categories" not in (rows.dtype.names or ()):
        return
    column = segments = 0
    for feature in layout.of("user"):
        if feature.kind == "number":
            continue
        first, column = column, column + feature.columns
        values = categories.get(feature.name, [])
        if feature.kind != "category" or not 2 <= len(values) <= _MOST_VALUES:
            continue
        ids = rows["user_categories"][:, first]
        names = [str(value) for value in values]
        group = np.where((ids >= FIRST_TITLE) & (ids < FIRST_TITLE + len(names)), ids - FIRST_TITLE, -1)
        yield Grouping(f"user/{feature.name}", f"{feature.name} of the user", group, names)
        segments += 1
        if segments == _MOST_SEGMENTS:
            return
