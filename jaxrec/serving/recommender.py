"""Recommendations of a trained checkpoint, in the caller's own ids."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.data.events.history_columns import milliseconds_of, title_rows
from jaxrec.data.events.user_groups import GROUP_ROWS
from jaxrec.data.storage.arrays import Arrays
from jaxrec.models import diversity as mmr
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.filters import Filters, TitleFilter
from jaxrec.serving.pages import TOP_PICKS, PageLayout, find_genres, page_rows
from jaxrec.serving.requests import RequestBuilder, RequestCounts, Requests, Scorer, TopTitles
from jaxrec.serving.vectors.of_catalogue import VectorsOfCatalogue

if TYPE_CHECKING:
    from jaxrec.core.paths import AnyPath
    from jaxrec.models.outputs import Correction
    from jaxrec.serving.index.indexed_scorer import IndexOptions
    from jaxrec.tasks.loading import LoadedCheckpoint

POPULARITY = "popularity"
_PAGE_CANDIDATES = 4  # candidates of a page, in multiples of its titles
_NO_EMPTY_HISTORY = "next_item"  # rows of tasks that are never trained on an empty history


@dataclass
class Recommendations:
    """Recommended titles, one per row.

    Args:
        columns: user, rank from 1, title, score, completion, reason, and empty_history; of pages also row,
            from 1. The score is NaN where the order is that of popularity, and the completion is NaN without
            a completion head.
        counts: Counts of users, plays and skipped plays, for the whole call so far.
    """

    columns: dict[str, np.ndarray]
    counts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]


class Served(NamedTuple):
    """Contents of a checkpoint or of an export that recommendations need besides the model."""

    config: Config
    layout: Layout  # of the rows
    arrays: Arrays  # of the catalogue
    categories: dict[str, list]  # values of each categorical feature, in the order of their ids
    step: int  # of the training


class BaseRecommender(VectorsOfCatalogue):
    """Recommender of titles for any users, over a scorer of the catalogue.

    Args:
        served: Contents of the checkpoint.
        scorer: Scorer.
        builder: Builder of requests.
    """

    def __init__(self, served: Served, scorer: Scorer, builder: RequestBuilder) -> None:
        self.config, self._layout, self.arrays, self._categories, self.step = served
        self._scorer, self._builder = scorer, builder
        self._unit: np.ndarray | None = None

    @property
    def titles(self) -> np.ndarray:
        """Keys [V] of all titles, by id; those without a popularity rank are in no list."""
        return self.arrays.title_key

    def with_names(self, columns: dict[str, np.ndarray], names: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return columns with the names of titles, [V] in the order of `titles`, after the titles."""
        if names is None:
            return columns
        name = names[title_rows(columns["title"], self.arrays.title_key)]
        at, items = [*columns].index("title") + 1, [*columns.items()]
        return dict([*items[:at], ("name", name), *items[at:]])

    # ------------------------------------------------------------ recommending

    def recommend(
        self, histories: Any, k: int = 20, filters: Filters | None = None, *, users: Any = None,
        now: Any = None, diversity: float = 0.0, page: PageLayout | None = None,
    ) -> Recommendations:  # fmt: skip
        """Recommend k titles to each user.

        Args:
            histories: Plays in the columns of the config: a CSV or Parquet file, a folder or a glob; a table
                of polars, pandas or Arrow; or a dict of columns.
            k: Number of titles of a user, at most the number of titles.
            filters: Titles that may be recommended. None: no title that the user has played.
            users: Users table, as `histories`, or a sequence of users. Users without plays are served too.
                Columns with user features, the context of the request, "region" and the time of the request
                are read where they exist. None: the users of the histories.
            now: Time of the requests where the users table has none: milliseconds since 1970, a datetime or
                an ISO 8601 string. Plays at or after it are left out. None: just after the user's last play.
            diversity: From 0 to 1, the weight of dissimilarity in a list (`models.diversity.rerank`).
            page: Size of pages of named rows in place of lists of k titles; None: lists.

        Raises:
            InputError: A table or a value is invalid.
        """
        groups = [*self.stream(histories, k, filters, users=users, now=now, diversity=diversity, page=page)]
        columns = {name: np.concatenate([g[name] for g in groups]) for name in groups[0].columns}
        return Recommendations(columns, groups[-1].counts)

    def stream(
        self, histories: Any, k: int = 20, filters: Filters | None = None, *, users: Any = None,
        now: Any = None, diversity: float = 0.0, page: PageLayout | None = None, group_rows: int = GROUP_ROWS,
    ) -> Iterator[Recommendations]:  # fmt: skip
        """Yield what `recommend` returns, for groups of users of about `group_rows` plays at a time."""
        if not 1 <= k <= self._scorer.titles:
            raise InputError(f"k={k}; allowed: 1 to {self._scorer.titles}, the number of titles")
        if not 0.0 <= diversity <= 1.0:
            raise InputError(f"diversity={diversity:g}; allowed: 0 to 1")
        at = milliseconds_of(now)
        title_filter = TitleFilter(filters or Filters(), self.config, self.arrays, at)
        counts, empty_lists, is_first = RequestCounts(), 0, True
        for made in self._builder.read(histories, users, at, counts, group_rows):
            exclusions, is_first = title_filter.exclusions(made), False
            if page is None:
                columns = self._lists(made, exclusions, k, diversity)
            else:
                columns = self._pages(made, exclusions, page)
            empty_lists += len(made.key) - len(np.unique(columns["user"]))
            counted = counts.to_json() | {"empty_lists": empty_lists} | self._scorer.report()
            yield Recommendations(columns, counted)
        if is_first:
            raise InputError("histories: no user; allowed: at least one row of histories or of users")

    def context_values(self, name: str) -> list[Any]:
        """Return the values of a category of the context in training; empty where there is none."""
        return self._categories.get(name, []) if name in [f.name for f in self._layout.of("context")] else []

    def _top(self, made: Requests, exclusions: Exclusions, k: int) -> tuple[TopTitles, np.ndarray]:
        """Return the k best titles of each request, and a mask [U] of requests served by popularity."""
        popular = made.is_empty & (self._layout.rows == _NO_EMPTY_HISTORY)
        top = self._scorer.top(made.rows, k, exclusions, popular)
        failed = np.flatnonzero(made.is_empty & (top.id[:, 0] == 0) & ~popular)
        if len(failed):  # the model has no finite score for an empty history
            everyone = np.ones(len(failed), bool)
            again = self._scorer.top(made.rows[failed], k, exclusions.select(failed), everyone)
            for column, values in zip(top, again, strict=True):
                column[failed] = values
            popular[failed] = True
        return top._replace(score=np.where(popular[:, None], np.nan, top.score)), popular

    def _lists(
        self, made: Requests, exclusions: Exclusions, k: int, diversity: float
    ) -> dict[str, np.ndarray]:
        candidates = min(k * mmr.CANDIDATES, self._scorer.titles) if diversity else k
        top, popular = self._top(made, exclusions, candidates)
        if diversity:
            score = np.where(popular[:, None], -np.arange(candidates, dtype=np.float32), top.score)
            place = mmr.rerank(top.id, score, self._unit_vectors(), k, diversity)
            top = TopTitles(*(np.take_along_axis(column, place, axis=1) for column in top))
        user, place = np.nonzero(top.id > 0)
        reason = np.where(popular, POPULARITY, TOP_PICKS)[user]
        return self._columns(made, user, place, top, popular, reason)

    def _pages(self, made: Requests, exclusions: Exclusions, page: PageLayout) -> dict[str, np.ndarray]:
        number = min(page.rows * page.width * _PAGE_CANDIDATES, self._scorer.titles)
        top, popular = self._top(made, exclusions, number)
        genres = find_genres(self._layout, self.arrays, self._categories)
        parts: dict[str, list[np.ndarray]] = {n: [] for n in ("user", "place", "row", "rank", "reason")}
        rows = page_rows(top.id, made.played, self.arrays, self._unit_vectors(), genres, page)
        for number, (reasons, places) in enumerate(rows):
            user, column = np.nonzero(places >= 0)
            reason = np.where(popular & (reasons == TOP_PICKS), POPULARITY, reasons)[user]
            values = user, places[user, column], np.full(len(user), number), column + 1, reason
            for part, value in zip(parts.values(), values, strict=True):
                part.append(value)
        joined = {name: np.concatenate(values) for name, values in parts.items()}
        order = np.lexsort((joined["rank"], joined["row"], joined["user"]))
        user, place, row, rank, reason = (values[order] for values in joined.values())
        columns = self._columns(made, user, place, top, popular, reason)
        # Rows are numbered from 1 without gaps: a row of a user may be empty.
        new_row = np.append(True, (row[1:] != row[:-1]) | (user[1:] != user[:-1])) if len(row) else row
        count = np.cumsum(new_row)
        first = count[np.searchsorted(user, user)] if len(user) else count
        return {"user": columns.pop("user"), "row": count - first + 1, **columns, "rank": rank}

    def _columns(
        self, made: Requests, user: np.ndarray, place: np.ndarray, top: TopTitles, popular: np.ndarray,
        reason: np.ndarray,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        return {
            "user": made.key[user],
            "rank": place + 1,
            "title": self.arrays.title_key[top.id[user, place] - FIRST_TITLE],
            "score": top.score[user, place],
            "completion": top.completion[user, place],
            "reason": reason,
            "empty_history": made.is_empty[user],
        }

    # ------------------------------------------------------------ scores

    def score(
        self, histories: Any, titles: Any, *, users: Any = None, now: Any = None
    ) -> dict[str, np.ndarray]:
        """Score titles for each user.

        Args:
            histories: As for `recommend`.
            titles: Sequence of titles.
            users: As for `recommend`.
            now: As for `recommend`.

        Returns:
            Columns user, title and score, one row for each user and title. A score orders the titles of one
            user.

        Raises:
            InputError: A title is unknown.
        """
        ids = self._ids(titles)
        parts: list[tuple[np.ndarray, ...]] = []
        for made in self._builder.read(histories, users, milliseconds_of(now)):
            scores = self._scorer.scores(made.rows, ids)
            user, title = np.indices(scores.shape).reshape(2, -1)
            parts.append(
                (made.key[user], self.arrays.title_key[ids[title] - FIRST_TITLE], scores.reshape(-1))
            )
        columns = (np.concatenate(values) for values in zip(*parts, strict=True))
        return dict(zip(("user", "title", "score"), columns, strict=True))


class Recommender(BaseRecommender):
    """Recommender of titles for any users, from a checkpoint alone.

    Args:
        loaded: Checkpoint.
        correction: Rule that orders the titles.
        titles: Table of titles; those launched since the training are served from their features. None: the
            titles of the training.
        index: Choice of the approximate index. None: `IndexOptions()`.
    """

    def __init__(
        self, loaded: "LoadedCheckpoint", correction: "Correction", titles: Any = None,
        index: "IndexOptions | None" = None,
    ) -> None:  # fmt: skip
        from jaxrec.evaluation.correction import extend_correction
        from jaxrec.serving.index.indexed_scorer import IndexOptions, open_scorer
        from jaxrec.serving.new_titles import append_titles

        self.loaded, self._task, self._index = loaded, loaded.task, index
        config, layout, categories = loaded.config, loaded.task.layout, loaded.categories
        arrays = append_titles(loaded.arrays, titles, config, layout, categories)
        self.correction = extend_correction(correction, layout.num_titles, len(arrays.rank_of_id))
        super().__init__(
            Served(config, layout, arrays, categories, loaded.step),
            open_scorer(loaded.task, loaded.params, arrays, self.correction, index or IndexOptions()),
            RequestBuilder(config, layout, arrays, categories),
        )

    @classmethod
    def load(
        cls, workdir: "str | AnyPath", which: str | None = None, titles: Any = None, index: str = "auto",
        blend: str = "",
    ) -> "Recommender":  # fmt: skip
        """Load a checkpoint.

        Args:
            workdir: Folder of the training run.
            which: "best" or "last" checkpoint. None: the value of the config; "last" if there is no best.
            titles: Titles table; launches since the training are served from features. None: of the training.
            index: "exact", "ann" or "auto" (`index.indexed_scorer.IndexOptions`); kept in the workdir.
            blend: Head or blend that orders the titles, as `evaluate --blend`. Empty: that of the config.

        Raises:
            InputError: There is no such checkpoint, the table is invalid, or no index can be used.
        """
        from jaxrec.core.paths import as_path
        from jaxrec.evaluation.correction import load_or_fit_correction
        from jaxrec.runtime.mesh import replicate
        from jaxrec.serving.index.indexed_scorer import IndexOptions
        from jaxrec.tasks.loading import default_checkpoint, load_checkpoint

        loaded, path = load_checkpoint(workdir, which or default_checkpoint(workdir), blend), as_path(workdir)
        correction = load_or_fit_correction(path, loaded, replicate(loaded.task.title_table(loaded.arrays)))
        return cls(loaded, correction, titles, IndexOptions(index, path, loaded.step))

    def add_titles(self, titles: Any) -> "Recommender":
        """Return a recommender that also serves a titles table's launches; arguments as of `load`."""
        return Recommender(replace(self.loaded, arrays=self.arrays), self.correction, titles, self._index)
