"""Vectors of users and of titles, and the titles that are similar to a title."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.events.history_columns import milliseconds_of, title_rows
from jaxrec.data.events.user_groups import GROUP_ROWS
from jaxrec.data.storage.arrays import Arrays
from jaxrec.models import diversity as mmr
from jaxrec.serving.requests import RequestBuilder, RequestCounts, Scorer


class VectorsOfCatalogue:
    """Vectors of the model of a recommender, in the caller's own ids.

    Attributes:
        arrays: Arrays of the catalogue.
    """

    arrays: Arrays
    _scorer: Scorer
    _builder: RequestBuilder
    _unit: np.ndarray | None

    def similar(self, titles: Any, k: int = 10) -> dict[str, np.ndarray]:
        """Return the k titles that are most similar to each title, by the cosine of their vectors.

        Returns:
            Columns title, rank from 1, similar and cosine. Ties are in order of popularity.

        Raises:
            InputError: A title is unknown, or k is too large.
        """
        if not 1 <= k < self._scorer.titles:
            raise InputError(f"k={k}; allowed: 1 to {self._scorer.titles - 1}")
        ids, unit = self._ids(titles), self._unit_vectors()
        by_rank = self.arrays.id_of_rank
        cosine = unit[ids] @ unit[by_rank].T
        cosine[by_rank[None] == ids[:, None]] = -np.inf
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        key = self.arrays.title_key
        return {
            "title": np.repeat(key[ids - FIRST_TITLE], k),
            "rank": np.tile(np.arange(1, k + 1), len(ids)),
            "similar": key[by_rank[best] - FIRST_TITLE].reshape(-1),
            "cosine": np.take_along_axis(cosine, best, axis=1).reshape(-1),
        }

    def embed(self, *, users: Any = None, titles: Any = None, now: Any = None) -> np.ndarray:
        """Return the vectors of users or of titles, [N, F] float32.

        Args:
            users: Histories, as for `recommend`; one vector per user, in the order in which users first
                appear.
            titles: Sequence of titles.
            now: With `users`, the time of the vectors, as for `recommend`.

        Raises:
            InputError: Not exactly one of both is given, a title is unknown, or the model has no vector of a
                user.
        """
        if (users is None) == (titles is None):
            raise InputError("embed: give either users or titles")
        if titles is not None:
            return self._scorer.embed_titles()[self._ids(titles)]
        return np.concatenate([group["vector"] for group in self.embed_stream(users, now=now)])

    def embed_stream(
        self, histories: Any, *, users: Any = None, now: Any = None, counts: RequestCounts | None = None,
        group_rows: int = GROUP_ROWS,
    ) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
        """Yield the columns user, empty_history and vector [U, F] of groups of about `group_rows` plays.

        Args:
            histories: As for `recommend`.
            users: As for `recommend`.
            now: As for `recommend`; plays at or after it are left out.
            counts: Counts of users and plays, changed in place.
            group_rows: Rows of plays in memory at a time.

        Raises:
            InputError: A table or a value is invalid, or the model has no vector of a user.
        """
        for made in self._builder.read(histories, users, milliseconds_of(now), counts, group_rows):
            vector = self._scorer.embed_users(made.rows)
            yield {"user": made.key, "empty_history": made.is_empty, "vector": vector}

    def embed_all_titles(self) -> dict[str, np.ndarray]:
        """Return the columns title and vector [V, F] of all titles that can be recommended, by popularity."""
        by_rank = self.arrays.id_of_rank
        title = self.arrays.title_key[by_rank - FIRST_TITLE]
        return {"title": title, "vector": self._scorer.embed_titles()[by_rank]}

    def _ids(self, titles: Any) -> np.ndarray:
        """Return the ids of titles; raise InputError for an unknown title."""
        titles = list(titles)
        rows = title_rows(titles, self.arrays.title_key)
        if (rows < 0).any():
            raise InputError(
                f"title {titles[int(np.argmin(rows))]!r} is unknown; allowed: the titles of the training, "
                f"such as {self.arrays.title_key[0].item()!r}"
            )
        return rows + FIRST_TITLE

    def _unit_vectors(self) -> np.ndarray:
        """Return the vectors [V, F] of all titles, of length 1, by id."""
        if self._unit is None:
            self._unit = mmr.unit_vectors(self._scorer.embed_titles())
        return self._unit
