"""Served model: an export, its requests as jobs, and the answers to a batch of jobs.

Axis letters: B requests of a batch, V titles, N titles to score.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.core.tables import Interactions, Users
from jaxrec.service.answers.columns import finite, join_plays, numbered, raw_column, without_title
from jaxrec.service.answers.search import CANVAS, SearchColumns, add_matches, exported_names, top_by_level
from jaxrec.service.options import ServiceError, ServiceOptions
from jaxrec.service.schemas import RequestSchemas, request_schemas
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.exported import MANIFEST, ExportedRecommender
from jaxrec.serving.filters import Filters, TitleFilter
from jaxrec.serving.pages import TOP_PICKS
from jaxrec.serving.recommender import POPULARITY
from jaxrec.serving.requests import RequestCounts, Requests, reordered

_NO_TITLES = np.empty(0, np.int64)
_EXPLAINING_PLAYS = 3  # of each title
_TITLES = 256  # of a call of the program `scores`: one size, so that few programs are compiled


@dataclasses.dataclass(eq=False)
class AnswerJob:
    """Request that is parsed, for one model."""

    model: "ServedModel"
    user: Any
    plays: Interactions
    features: dict[str, Any]  # columns of the users table, one row
    k: int = 0  # of a list; 0: score `ids`
    filter: TitleFilter | None = None
    explain: bool = False
    query: str | None = None  # of a search
    level: np.ndarray | None = None  # [V] int8 of each title's match with the query, by popularity rank
    ids: np.ndarray = dataclasses.field(default_factory=lambda: _NO_TITLES)


class ServedModel:
    """Model of an export, with the programs of every batch size.

    Args:
        recommender: Recommender of the export.
        fingerprint: Fingerprint of the export.
        options: Limits.
    """

    def __init__(self, recommender: ExportedRecommender, fingerprint: str, options: ServiceOptions) -> None:
        self.recommender, self.fingerprint, self._options = recommender, fingerprint, options
        self.max_batch = recommender.scorer.limit_batches(1, 1 << (options.max_batch.bit_length() - 1))
        self._step = min(_TITLES, recommender.scorer.titles_of_step)
        self.max_k = min(options.max_k, recommender.scorer.most_titles)
        arrays, self._genres = recommender.arrays, recommender.genres()
        self.titles, self.names = recommender.titles.tolist(), recommender.names
        by_rank = (arrays.id_of_rank - FIRST_TITLE).tolist()
        names = [""] * len(self.titles) if self.names is None else self.names
        self._texts = np.array([f"{names[row]}\n{self.titles[row]}".lower() for row in by_rank])
        self.schemas: RequestSchemas = request_schemas(
            recommender.manifest["columns"], self.titles[:2],
            dataclasses.replace(options, max_k=self.max_k),
        )  # fmt: skip
        self._search = SearchColumns(self.schemas.features, recommender.context_values(CANVAS))
        self._matches = exported_names(recommender)
        self._time_column = [column.name for column in self.schemas.plays if column.role == "time"]
        self._filters = {
            (watched, abandoned): self._filter(Filters(watched, abandoned))
            for watched in (False, True)
            for abandoned in (False, True)
        }

    @classmethod
    def load(cls, folder: str | os.PathLike, options: ServiceOptions) -> "ServedModel":
        """Load an export.

        Raises:
            InputError: As for `ExportedRecommender.load`.
        """
        recommender = ExportedRecommender.load(folder)
        return cls(recommender, export_fingerprint(folder), options)

    def compile(self) -> int:
        """Compile the programs of all batch sizes, and return their number."""
        scorer, V = self.recommender.scorer, len(self.titles)
        dtype, count = Layout.from_json(self.recommender.manifest["layout"]).query_dtype(), 0
        lengths = sorted({min(k, self.max_k) for k in scorer.list_lengths})
        for size in (1 << i for i in range(self.max_batch.bit_length())):
            rows, eligible = np.zeros(size, dtype), np.ones((size, V), bool)
            none = Exclusions(_NO_TITLES, _NO_TITLES, np.arange(size, dtype=np.int32), eligible)
            for k in lengths:
                scorer.top(rows, k, none)
            scorer.scores(rows, np.full(self._step, FIRST_TITLE))
            count += len(lengths) + 1
        self.recommender.similar([self.titles[0]], 1)  # makes the unit vectors
        return count

    # ------------------------------------------------------------ requests

    def recommend_job(self, request: Any) -> AnswerJob:
        """Return the job of a RecommendRequest.

        Raises:
            InputError: A value cannot be parsed.
            ServiceError: k is too large.
        """
        most = self._options.explained_titles
        if request.k > self.max_k or (request.explain and request.k > most):
            allowed = f"{most} with explain=true" if request.explain else str(self.max_k)
            raise ServiceError(422, f"k={request.k}; allowed: 1 to {allowed}")
        job = self._user_job(request)
        job.k, job.explain = request.k, request.explain
        settings = request.filter_watched, request.filter_abandoned
        job.filter = self._filters[settings]
        if request.allow is not None or request.deny:
            job.filter = self._filter(Filters(*settings, allow=request.allow, deny=request.deny))
        return job

    def search_job(self, request: Any) -> AnswerJob:
        """Return the job of a SearchRequest.

        Raises:
            InputError: A value cannot be parsed.
            ServiceError: k is too large, or the model reads no query.
        """
        job = self.recommend_job(request)
        job.features, job.query = self._search.fill(job.features, request.query), request.query
        job.level = self._matches.levels(request.query) if request.matches_first else None
        return job

    def score_job(self, request: Any) -> AnswerJob:
        """Return the job of a ScoreRequest.

        Raises:
            InputError: A value cannot be parsed.
            ServiceError: A title is unknown.
        """
        job = self._user_job(request)
        job.ids = self.ids(request.titles)
        return job

    def ids(self, titles: list[Any]) -> np.ndarray:
        """Return the ids [T] of titles; raise ServiceError for an unknown title."""
        rows = self.recommender.builder.history_columns.titles.rows(titles)
        if (rows < 0).any():
            raise ServiceError(
                404, f"title {titles[int(np.argmin(rows))]!r} is unknown; allowed: the titles of the export, "
                f"such as {self.titles[0]!r}",
            )  # fmt: skip
        return rows + FIRST_TITLE

    def _user_job(self, request: Any) -> AnswerJob:
        columns = {
            column.name: raw_column(column, [getattr(play, column.attribute) for play in request.history])
            for column in self.schemas.plays
        }
        history = self.recommender.builder.history_columns
        user = self.recommender.manifest["columns"]["plays"]["user"]["column"].split("|")[0]
        known = {name: values for name, values in columns.items() if values is not None}
        plays = history.plays(known | {user: np.zeros(len(request.history), np.int64)})
        features: dict[str, Any] = {}
        for column in self.schemas.features if request.features is not None else ():
            values = raw_column(column, [getattr(request.features, column.attribute)])
            if values is not None:
                features[column.name] = values
        if request.time is not None:
            features |= {name: [request.time] for name in self._time_column}
        job = AnswerJob(self, request.user, plays, features)
        if features:  # a value that cannot be parsed must not fail a batch
            self._users_row(job, 0)
        return job

    def _users_row(self, job: AnswerJob, number: int) -> Users:
        (key,) = self.recommender.manifest["columns"]["user_key"].values()
        table = {key["column"].split("|")[0]: np.array([number])} | job.features
        return self.recommender.builder.history_columns.users(table, numbered(job.plays, number))

    def _filter(self, filters: Filters) -> TitleFilter:
        return TitleFilter(filters, self.recommender.config, self.recommender.arrays, None)

    # ------------------------------------------------------------ answers

    def answer(self, jobs: Sequence[AnswerJob]) -> list[dict[str, Any]]:
        """Return the answers to a batch of at most `max_batch` jobs, in their order."""
        answers: dict[int, dict[str, Any]] = {}
        for number in {job.k > 0 for job in jobs}:
            group = [job for job in jobs if (job.k > 0) == number]
            made = self._requests(group)
            results = self._lists(group, made) if number else self._scores(group, made)
            empty = made.is_empty
            for i, (job, result) in enumerate(zip(group, results, strict=True)):
                unknown = int((job.plays.title < 0).sum())
                answers[id(job)] = {
                    "user": job.user, **result, "empty_history": bool(empty[i]),
                    "plays_of_unknown_titles": unknown, "model": self.fingerprint,
                }  # fmt: skip
        return [answers[id(job)] for job in jobs]

    def similar(self, title: Any, k: int) -> dict[str, Any]:
        """Return the answer of /v1/similar for a known title."""
        columns = self.recommender.similar([title], k)
        titles = [
            {**self._title(id_), "rank": rank, "cosine": finite(cosine)}
            for id_, rank, cosine in zip(
                self.ids(columns["similar"].tolist()).tolist(), columns["rank"].tolist(),
                columns["cosine"].tolist(), strict=True,
            )
        ]  # fmt: skip
        return {"title": columns["title"][0].item(), "titles": titles, "model": self.fingerprint}

    def find_titles(self, text: str, limit: int) -> list[dict[str, Any]]:
        """Return the titles whose name or key contains a text, the most popular first."""
        ranks = np.flatnonzero(np.char.find(self._texts, text.lower()) >= 0)[:limit]
        return [
            {**self._title(id_), "genres": self._genres_of(id_), "popularity_rank": rank + 1}
            for rank, id_ in zip(
                ranks.tolist(), self.recommender.arrays.id_of_rank[ranks].tolist(), strict=True
            )
        ]

    def _requests(self, jobs: Sequence[AnswerJob]) -> Requests:
        """Return the requests of jobs, in their order."""
        plays: dict[tuple[str, ...], list[Interactions]] = {}
        chunks: list[Interactions | Users] = []
        for number, job in enumerate(jobs):
            if len(job.plays.title):
                plays.setdefault(tuple(job.plays.context), []).append(numbered(job.plays, number))
            if job.features or not len(job.plays.title):
                chunks.append(self._users_row(job, number))
        # A chunk costs about 0.2 ms whatever its rows: those with the same columns are joined.
        chunks += [join_plays(parts) for parts in plays.values()]
        made = self.recommender.builder.build(chunks, None, RequestCounts())
        return reordered(made, np.argsort(made.key))  # they are in the order of the chunks

    def _lists(self, jobs: Sequence[AnswerJob], made: Requests) -> list[dict[str, Any]]:
        eligible_BxV = np.ones((len(jobs), len(self.recommender.arrays.id_of_rank)), bool)
        level_BxV = np.zeros(eligible_BxV.shape, np.int8)
        of_filter: dict[int, Exclusions] = {}
        for i, job in enumerate(jobs):
            assert job.filter is not None
            if id(job.filter) not in of_filter:
                of_filter[id(job.filter)] = job.filter.exclusions(made)
            out = of_filter[id(job.filter)]
            eligible_BxV[i] = out.eligible_GxV[0]
            eligible_BxV[i, out.rank[slice(*np.searchsorted(out.user, [i, i + 1]))]] = False
            if job.level is not None:
                level_BxV[i] = job.level
        top, popular = top_by_level(self.recommender, made, eligible_BxV, level_BxV, [j.k for j in jobs])
        results = []
        for i, job in enumerate(jobs):
            ids = top.id[i, : job.k]
            ids = ids[ids > 0]
            titles = [
                {
                    **self._title(id_), "rank": rank, "score": finite(score),
                    "completion": finite(completion),
                }
                for rank, (id_, score, completion) in enumerate(
                    zip(ids.tolist(), top.score[i].tolist(), top.completion[i].tolist(), strict=False), 1
                )
            ]  # fmt: skip
            if job.explain and len(ids):
                for title, reasons in zip(titles, self._reasons(job, ids), strict=True):
                    title["reasons"] = reasons
            if job.query is not None:
                add_matches(titles, level_BxV[i, self.recommender.arrays.rank_of_id[ids]].tolist())
            query = {} if job.query is None else {"query": job.query}
            order = POPULARITY if popular[i] else TOP_PICKS
            results.append({"titles": titles, "order": order, **query})
        return results

    def _scores(self, jobs: Sequence[AnswerJob], made: Requests) -> list[dict[str, Any]]:
        union, inverse = np.unique(np.concatenate([job.ids for job in jobs]), return_inverse=True)
        scores = self._scores_of(made, union)
        ends = np.cumsum([len(job.ids) for job in jobs])
        return [
            {
                "scores": [
                    {"title": self.titles[id_ - FIRST_TITLE], "score": finite(score)}
                    for id_, score in zip(job.ids.tolist(), scores[i, places].tolist(), strict=True)
                ]
            }
            for i, (job, places) in enumerate(zip(jobs, np.split(inverse, ends[:-1]), strict=True))
        ]

    def _scores_of(self, made: Requests, ids: np.ndarray) -> np.ndarray:
        """Return the scores [B, N] of `ids`, by programs that are compiled."""
        padded = np.concatenate([ids, np.full(-len(ids) % self._step, FIRST_TITLE)])
        parts = [
            self.recommender.scorer.scores(made.rows, part)
            for part in np.split(padded, len(padded) // self._step)
        ]
        return np.concatenate(parts, axis=1)[:, : len(ids)]

    # ------------------------------------------------------------ reasons

    def _reasons(self, job: AnswerJob, ids: np.ndarray) -> list[dict[str, Any]]:
        """Return the reasons of the titles `ids` of a list, by leaving out one played title at a time."""
        known = job.plays.title >= 0
        latest = job.plays.title[known][np.argsort(-job.plays.time[known], kind="stable")]
        _, first = np.unique(latest, return_index=True)
        played = latest[np.sort(first)][: self._options.explained_plays]
        variants = [job, *(dataclasses.replace(job, plays=without_title(job.plays, row)) for row in played)]
        if known.any() and not set(job.features) & set(self._time_column):  # the same time without the last
            after = np.array([job.plays.time[known].max() + 1], "datetime64[ms]")
            features = job.features | dict.fromkeys(self._time_column, after)
            variants = [dataclasses.replace(variant, features=features) for variant in variants]
        scores = self._scores_of(self._requests(variants), ids)
        with np.errstate(invalid="ignore"):
            weights = scores[:1] - scores[1:]
        out, all_played = [], {row + FIRST_TITLE for row in np.unique(latest).tolist()}
        seen_genres = {value for id_ in all_played for value in self._genres_of(id_)}
        for column, id_ in enumerate(ids.tolist()):
            order = np.argsort(-np.nan_to_num(weights[:, column], nan=-np.inf), kind="stable")
            plays = [
                {
                    **self._title(int(played[i]) + FIRST_TITLE), "weight": finite(weights[i, column]),
                }
                for i in order[:_EXPLAINING_PLAYS].tolist()
                if weights[i, column] > 0
            ]  # fmt: skip
            genres = [value for value in self._genres_of(id_) if value in seen_genres]
            rank = int(self.recommender.arrays.rank_of_id[id_]) + 1
            out.append({"plays": plays, "genres": genres, "popularity_rank": rank})
        return out

    def _genres_of(self, id_: int) -> list[str]:
        if self._genres is None:
            return []
        return [str(self._genres.values[i]) for i in self._genres.of_id[id_].tolist() if i >= 0]

    def _title(self, id_: int) -> dict[str, Any]:
        """Return the key of a title, and its name where the export has names."""
        row = id_ - FIRST_TITLE
        name = {} if self.names is None else {"name": str(self.names[row])}
        return {"title": self.titles[row], **name}


def export_fingerprint(folder: str | os.PathLike) -> str:
    """Return 16 digits of the sha256 of a manifest, which has the sha256 of every other file."""
    return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()[:16]
