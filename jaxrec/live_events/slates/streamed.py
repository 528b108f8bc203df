"""Sums over users by segment, streamed through the model: no array of all users by all titles.

Axis letters: B queries of a batch, V titles, S segments, R regions, A assignments of a user.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.dataset import Rows, SelectedRows
from jaxrec.evaluation.scorers import QueryRunner
from jaxrec.live_events.segments.kmeans import nearest
from jaxrec.models.outputs import Correction
from jaxrec.models.two_stage import top_titles
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.tasks.base import Task

_PAIRS = 2**22  # (query, title) pairs that a device scores at a time
_LEAST_LOG = -50.0  # of a probability, so that one title that a user never plays leaves a mean finite
# Products of zeros and ones with probabilities, in float32 on every device: TF32 keeps ten bits.
_EXACT = jax.lax.Precision.HIGHEST


class SegmentMeans(NamedTuple):
    """Means over the users of segments.

    Attributes:
        users: [S] number of users.
        probability: [S, V] mean probability of each title as the next play; 0 for padding and unknown.
        log_probability: [S, V] mean log probability, at least `_LEAST_LOG` for each user.
    """

    users: np.ndarray
    probability: np.ndarray
    log_probability: np.ndarray

    def select(self, segments: slice) -> "SegmentMeans":
        """Return the means of some segments; a segment without users has the means of all of them."""
        users, *means = (column[segments] for column in self)
        total = max(int(users.sum()), 1)
        everyone = [(users @ mean) / total for mean in means]
        return SegmentMeans(
            users, *(np.where(users[:, None] > 0, m, e) for m, e in zip(means, everyone, strict=True))
        )


class _OnQueries(QueryRunner):
    """Runner of a step over queries in memory, with the queries of each batch."""

    def _parts(self, inputs: Any, rows: Rows) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Yield outputs, a mask of their queries and the indices of these queries in the rows."""
        done = 0
        for outputs, index in self._run(inputs, rows):
            if index is None:
                index = np.arange(done, done + self._batch_size)
                index = np.where(index < rows.rows, index, -1)
                done += self._batch_size
            yield outputs, index >= 0, index[index >= 0]


class UserVectors(_OnQueries):
    """Vectors of users, batch by batch."""

    def __init__(self, task: Task, table: TitleTable) -> None:
        def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
            vectors = task.embed_users(params, host, table).astype(jnp.float32)
            return jax.lax.all_gather(vectors, AXIS, tiled=True)

        super().__init__(task, table, step, task.config.evaluate.batch_size, lambda params: params)

    def all(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [N, F] float32 of queries."""
        out: np.ndarray | None = None
        for vectors, is_query, index in self._parts(as_global_arrays(params), SelectedRows(rows)):
            out = np.empty((len(rows), vectors.shape[1]), np.float32) if out is None else out
            out[index] = jax.device_get(vectors)[is_query]
        return np.empty((0, 0), np.float32) if out is None else out

    def assign(self, params: Any, rows: np.ndarray, centroids: Sequence[np.ndarray]) -> np.ndarray:
        """Return the nearest centroid [N, A] int32 of each query, for A sets of centroids."""
        out = np.zeros((len(rows), len(centroids)), np.int32)
        for vectors, is_query, index in self._parts(as_global_arrays(params), SelectedRows(rows)):
            known = jax.device_get(vectors)[is_query]
            for a, of_set in enumerate(centroids):
                out[index, a] = nearest(known, of_set)
        return out


class SegmentScorer(_OnQueries):
    """Means of the titles' probabilities over the users of segments.

    The probability of a title is the softmax of the corrected scores of all titles.

    Args:
        task: The task.
        table: Title features on the devices.
        correction: Rule that orders the titles.
        segments: Number of segments S, of all assignments together.
        assignments: Number of segments A of each user, of different segmentations.
    """

    def __init__(
        self, task: Task, table: TitleTable, correction: Correction, segments: int, assignments: int
    ) -> None:
        self._segments = segments

        def step(params: Any, host: HostBatch, table: TitleTable) -> tuple[jax.Array, jax.Array]:
            segment_BxA = host.words[:, -assignments:].astype(jnp.int32)
            log_p_BxV = log_probabilities(task, params, host, table, correction)
            member_BxS = jax.nn.one_hot(segment_BxA, segments, dtype=jnp.float32).sum(axis=1)
            member_BxS *= jnp.asarray(host.valid)[:, None]
            exists_BxV = log_p_BxV > -jnp.inf
            logs = jnp.where(exists_BxV, jnp.maximum(log_p_BxV, _LEAST_LOG), 0.0)
            sums = tuple(
                jnp.matmul(member_BxS.T, x_BxV, precision=_EXACT) for x_BxV in (jnp.exp(log_p_BxV), logs)
            )
            return jax.lax.psum(sums, AXIS)

        queries = max(_PAIRS // task.layout.num_titles, 1)
        super().__init__(task, table, step, queries, lambda params: params)

    def __call__(self, params: Any, rows: np.ndarray, segment: np.ndarray) -> SegmentMeans:
        """Return the means of segments.

        Args:
            params: Parameters.
            rows: [N] queries.
            segment: [N, A] segments of each query, from 0 to S - 1.
        """
        words = np.concatenate([segment, np.zeros((1, segment.shape[1]), np.int32)]).astype(np.uint32)
        with_segments = SelectedRows(rows).with_words(lambda index: words[index])
        users = np.bincount(segment.ravel(), minlength=self._segments)
        sums = [np.zeros((self._segments, self._task.layout.num_titles)) for _ in range(2)]
        for of_batch, _ in self._run(as_global_arrays(params), with_segments):
            for total, part in zip(sums, jax.device_get(of_batch), strict=True):
                total += part
        means = (total / np.maximum(users, 1)[:, None] for total in sums)
        return SegmentMeans(users, *means)


class UserRanker(_OnQueries):
    """Best titles of each user in each region, for slates without segments.

    Args:
        task: The task.
        table: Title features on the devices.
        correction: Rule that orders the titles.
        eligible_RxV: Titles of each region, by id.
        titles: Number of best titles.
    """

    def __init__(
        self, task: Task, table: TitleTable, correction: Correction, eligible_RxV: np.ndarray, titles: int
    ) -> None:
        def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
            log_p_BxV = log_probabilities(task, params, host, table, correction)
            best = (
                top_titles(jnp.where(jnp.asarray(mask_V), log_p_BxV, -jnp.inf), titles, table.rank)
                for mask_V in eligible_RxV
            )
            ids = [jnp.where(score_Bxk > -jnp.inf, id_Bxk, 0) for score_Bxk, id_Bxk in best]
            return jax.lax.all_gather(jnp.stack(ids, axis=1), AXIS, tiled=True)

        queries = max(_PAIRS // task.layout.num_titles, 1)
        super().__init__(task, table, step, queries, lambda params: params)

    def __call__(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Return ids [N, R, titles] of each query, the best first; 0 for none."""
        parts = [
            (index, jax.device_get(ids)[is_query])
            for ids, is_query, index in self._parts(as_global_arrays(params), SelectedRows(rows))
        ]
        out = np.zeros((len(rows), *parts[0][1].shape[1:]), np.int32)
        for index, ids in parts:
            out[index] = ids
        return out


def log_probabilities(
    task: Task, params: Any, host: HostBatch, table: TitleTable, correction: Correction
) -> jax.Array:
    """Return log probabilities [B, V] float32 of the next title; -inf for ids that are no title."""
    by_head, _, _ = task.score_all_titles(params, host, table, (correction.head,))
    scores_BxV = correction(by_head[correction.head]).astype(jnp.float32)
    titles_V = task.candidates(table)
    if titles_V is None:
        titles_V = jnp.arange(scores_BxV.shape[1]) >= FIRST_TITLE
    usable_BxV = titles_V[None] & ~jnp.isnan(scores_BxV)
    return jax.nn.log_softmax(jnp.where(usable_BxV, scores_BxV, -jnp.inf), axis=1)


def rank_titles(means: np.ndarray, eligible_V: np.ndarray, rank_V: np.ndarray, titles: int) -> np.ndarray:
    """Return the ids [S, titles] of the highest means, the best first; 0 after the last eligible title.

    Of equal means, the more popular title comes first.

    Args:
        means: [S, V].
        eligible_V: Titles that may be shown.
        rank_V: Popularity rank of each id.
        titles: Number of titles.
    """
    ids = np.flatnonzero(eligible_V)
    ids = ids[np.argsort(rank_V[ids], kind="stable")]
    best = np.argsort(-means[:, ids], axis=1, kind="stable")[:, :titles]
    out = np.zeros((len(means), titles), np.int32)
    out[:, : best.shape[1]] = ids[best]
    return out
