"""Searches: the features of a request that has a query, and lists with the titles that match it first.

A search is a ranking in two stages: names retrieve, and the model orders what matches. What does not match
follows in the order of the model, which reads misspelt names too. Axis letters: B requests, V titles by
popularity rank.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.text.name_matches import NAME, NONE, WORD, NameMatches, name_matches
from jaxrec.service.options import ServiceError
from jaxrec.service.schemas import Column
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.exported import ExportedRecommender
from jaxrec.serving.requests import Requests, TopTitles

CANVAS, SEARCH = "canvas", "search"  # name of the context of the page, and its value on a search
MATCHES = {NAME: "name", WORD: "word", NONE: None}  # level -> value of `match` in an answer
_NO_TITLES = np.empty(0, np.int64)


class SearchColumns:
    """Columns that a search fills: the first text of the context, and the canvas where the model has it.

    Args:
        features: Columns of the features of a request.
        canvases: Values of the context `canvas` in training; empty without it.
    """

    def __init__(self, features: tuple[Column, ...], canvases: list[Any]) -> None:
        self.query = next((c.name for c in features if c.kind == "free text"), "")
        of_canvas = [c.name for c in features if c.role == CANVAS]
        self._canvas = {name: [SEARCH] for name in of_canvas if SEARCH in canvases}

    def fill(self, features: dict[str, Any], query: str) -> dict[str, Any]:
        """Return the features of a request with its query; the canvas of the request comes first.

        Raises:
            ServiceError: The model reads no query.
        """
        if not self.query:
            allowed = "a model with a feature of kind 'text' of the context"
            raise ServiceError(422, f"query={query[:60]!r}: this model reads no query; allowed: {allowed}")
        return {**self._canvas, **features, self.query: [query]}


def exported_names(recommender: ExportedRecommender) -> NameMatches:
    """Return the names and genres of an export's titles; empty names where it has none."""
    id_of_rank, genres = recommender.arrays.id_of_rank, recommender.genres()
    names = np.full(len(recommender.titles), "") if recommender.names is None else recommender.names
    none = np.empty(0, str), np.full((len(id_of_rank), 1), -1)
    words, of_title = none if genres is None else (genres.values, genres.of_id[id_of_rank])
    return name_matches(names[id_of_rank - FIRST_TITLE], words, of_title)


def add_matches(titles: Sequence[dict[str, Any]], levels: Sequence[int]) -> None:
    """Write the `match` of each title of an answer, by its level."""
    for title, level in zip(titles, levels, strict=True):
        title["match"] = MATCHES[level]


def top_by_level(
    recommender: ExportedRecommender, made: Requests, eligible_BxV: np.ndarray, level_BxV: np.ndarray,
    number_B: Sequence[int],
) -> tuple[TopTitles, np.ndarray]:  # fmt: skip
    """Return the best titles of requests, those of a higher level first, and a mask [B] as for `top`.

    Within a level the order is that of the model. Where all titles have one level, there is one computation.

    Args:
        recommender: Recommender of the export.
        made: The B requests.
        eligible_BxV: Bool, the titles that may be listed.
        level_BxV: Level of each title; 0 throughout for a request that is no search.
        number_B: Number of titles that each request needs.
    """
    k, number = max(number_B), np.asarray(number_B)
    level_BxV = np.where(eligible_BxV, level_BxV, np.int8(-1))
    current = np.maximum(level_BxV.max(axis=1, initial=0), 0)
    top, popular = recommender.top(made, _only(level_BxV == current[:, None]), k)
    count = (top.id > 0).sum(axis=1)
    while True:
        left = np.where(level_BxV < current[:, None], level_BxV, np.int8(-1))
        current = left.max(axis=1, initial=-1)
        pending = np.flatnonzero((count < number) & (current >= 0))
        if not len(pending):
            return top, popular
        exclusions = _only(left[pending] == current[pending, None])
        more = recommender.scorer.top(made.rows[pending], k, exclusions, popular[pending])
        row, place = np.nonzero(more.id > 0)
        to = count[pending][row] + place
        kept = to < k
        for column, values in zip(top, more, strict=True):
            column[pending[row[kept]], to[kept]] = values[row[kept], place[kept]]
        count[pending] = np.minimum(count[pending] + (more.id > 0).sum(axis=1), k)


def _only(eligible_BxV: np.ndarray) -> Exclusions:
    """Return exclusions with one group for each request, so that no shape depends on their filters."""
    return Exclusions(_NO_TITLES, _NO_TITLES, np.arange(len(eligible_BxV), dtype=np.int32), eligible_BxV)
