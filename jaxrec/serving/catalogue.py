"""Exact best titles of the catalogue for each request, in blocks of titles.

Axis letters: B queries, V titles by popularity rank padded to whole blocks, N titles of a block, M titles to
leave out, G groups of users with the same eligible titles, k best titles.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.codes.trie import allow
from jaxrec.core.batch import HostBatch, TitleTable, TitleTrie
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.arrays import Arrays, as_words
from jaxrec.models.outputs import Correction
from jaxrec.runtime.device_batch import transfer
from jaxrec.runtime.mesh import AXIS, as_global_arrays, replicate
from jaxrec.runtime.parallel_step import parallelize_queries
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.requests import TopTitles
from jaxrec.tasks.base import Task

_CPU_PAIRS, _PAIRS = 2**18, 2**22  # (query, title) pairs that a device scores at a time
_CPU_QUERIES, _QUERIES = 256, 1024  # per device and step
_JOINED_PAIRS = 2**12  # pairs where each candidate has a sequence of its own
_LEAST_QUERIES = 8  # of a step, so that few programs are compiled


class DeviceCatalogue(NamedTuple):
    """Catalogue on the devices; V titles in order of popularity, padded to whole blocks."""

    table: TitleTable
    id_V: Any  # int32 ids by popularity rank, 0 for padding
    log_q_V: Any  # float32, of these ids
    eligible_GxV: Any


class CatalogueScorer:
    """Scorer of requests over the whole catalogue, on all local devices.

    Of titles with equal scores the more popular title comes first, so that results are deterministic. Titles
    with a NaN score are left out.

    Args:
        task: Task of the checkpoint.
        params: Parameters.
        arrays: Arrays of the catalogue.
        correction: Rule of the final scores.
        pairs: (query, title) pairs that a device scores at a time; 0: by the kind of device.
    """

    def __init__(
        self, task: Task, params: Any, arrays: Arrays, correction: Correction, pairs: int = 0
    ) -> None:
        on_cpu = jax.default_backend() == "cpu"
        self._queries = _CPU_QUERIES if on_cpu else _QUERIES
        self._pairs = pairs or (_CPU_PAIRS if on_cpu else _PAIRS)
        if task.config.model.target_in_sequence:
            self._pairs, self._queries = min(self._pairs, _JOINED_PAIRS), 16
        self._task, self._params, self._correction = task, as_global_arrays(params), correction
        self.titles = len(arrays.id_of_rank)
        self._table = replicate(task.title_table(arrays))
        self._id_V = arrays.id_of_rank
        log_q_V = correction.log_q_V
        self._log_q_V = np.zeros(len(arrays.rank_of_id), np.float32) if log_q_V is None else log_q_V
        self._steps: dict[tuple, Callable] = {}
        self._eligible: tuple[np.ndarray, int, Any] | None = None

    def top(
        self, rows: np.ndarray, k: int, exclusions: Exclusions, by_popularity: np.ndarray | None = None
    ) -> TopTitles:
        """Return the k best eligible titles of each request.

        Args:
            rows: [U] Layout.query_dtype().
            k: Number of titles, at most the number of titles of the catalogue.
            exclusions: Titles to leave out.
            by_popularity: [U] bool, requests whose titles are ordered by popularity; their scores are minus
                the popularity rank. None: no request.
        """
        if by_popularity is None:
            by_popularity = np.zeros(len(rows), bool)
        batch = self._batch_size(len(rows))
        block = self._block_size(batch, k)
        excluded_UxM = exclusions.pad_by_user(len(rows), self.titles)
        catalogue = self._on_device(exclusions.eligible_GxV, block)
        step = self._step(("top", k, block), lambda: _top_step(self._task, self._correction, k, block))
        outputs = self._run(step, batch, catalogue, rows, excluded_UxM, exclusions.group, by_popularity)
        return TopTitles(*outputs)

    def scores(self, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the scores [U, N] of the titles `ids` [N] for each request."""
        batch = self._batch_size(len(rows))
        step = self._step(("scores",), lambda: _score_step(self._task, self._correction))
        inputs = self._table, replicate((ids.astype(np.int32), self._log_q_V[ids]))
        (scores,) = self._run(step, batch, inputs, rows)
        return scores

    def embed_users(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [U, F] of the users of requests."""

        def make() -> Callable:
            return lambda params, queries, table: (
                jax.lax.all_gather(self._task.embed_users(params, queries[0], table), AXIS, tiled=True),
            )

        step = self._step(("users",), make)
        (vectors,) = self._run(step, self._batch_size(len(rows)), self._table, rows)
        return vectors

    def embed_titles(self) -> np.ndarray:
        """Return the vectors [V, F] of all titles, by id."""
        return self._embed_titles(("titles",), self._task.embed_titles)

    def report(self) -> dict[str, Any]:
        """Return counts of the ranking as JSON values; none if all titles are scored."""
        return {}

    def _embed_titles(self, key: tuple, embed: Callable[[Any, TitleTable], jax.Array]) -> np.ndarray:
        """Return `embed(params, table)` as float32, computed by the step of a key."""
        step = self._step(key, lambda: lambda params, queries, table: embed(params, table))
        host = HostBatch(
            np.zeros((jax.local_device_count(), 1), np.uint32), np.zeros(jax.local_device_count(), bool)
        )
        return np.asarray(step(self._params, transfer((host,)), self._table), np.float32)

    def _step(self, key: tuple, make: Callable[[], Callable]) -> Callable:
        """Return the mapped step of a key, made once."""
        if key not in self._steps:
            like = self._task.abstract_params if self._task.shards_titles else None
            self._steps[key] = parallelize_queries(make(), like)
        return self._steps[key]

    def _batch_size(self, users: int) -> int:
        """Return the number of queries of a step: a power of two per device, so that few programs exist."""
        devices = jax.local_device_count()
        per_device = max(-(-users // devices), _LEAST_QUERIES)
        return devices * min(1 << (per_device - 1).bit_length(), self._queries)

    def _block_size(self, batch: int, k: int) -> int:
        """Return the number of titles of a block, at least k."""
        size = self._pairs // (batch // jax.local_device_count())
        return max(min(size, self.titles), k, 1)

    def _on_device(self, eligible_GxV: np.ndarray, block: int) -> DeviceCatalogue:
        """Return the catalogue on the devices, cached for the last eligible titles."""
        if self._eligible is None or self._eligible[1] != block or self._eligible[0] is not eligible_GxV:
            room = -self.titles % block
            ids = np.pad(self._id_V, (0, room))
            eligible = np.pad(eligible_GxV, ((0, 0), (0, room)))
            arrays = replicate((ids, self._log_q_V[ids].astype(np.float32), eligible))
            self._eligible = eligible_GxV, block, DeviceCatalogue(self._table, *arrays)
        return self._eligible[2]

    def _run(
        self, step: Callable, batch: int, inputs: Any, rows: np.ndarray, *columns: np.ndarray
    ) -> list[np.ndarray]:
        """Run a step on padded batches of rows, and concatenate its outputs.

        The device computes the next batch while the host reads the outputs.
        """
        outputs: list[Any] = []
        previous = None
        for queries in _batches(rows, columns, batch):
            current = step(self._params, transfer(queries), inputs)
            if previous is not None:
                outputs.append(jax.device_get(previous))
            previous = current
        outputs.append(jax.device_get(previous))
        return [np.concatenate(parts)[: len(rows)] for parts in zip(*outputs, strict=True)]


def _batches(rows: np.ndarray, columns: tuple[np.ndarray, ...], batch: int) -> Iterator[tuple]:
    """Yield host batches and their columns, padded to `batch` queries."""
    for first in range(0, max(len(rows), 1), batch):
        words = as_words(rows[first : first + batch])
        room = batch - len(words)
        host = HostBatch(np.pad(words, ((0, room), (0, 0))), np.arange(batch) < len(words))
        parts = [column[first : first + batch] for column in columns]
        yield host, *(np.pad(x, ((0, room), *((0, 0),) * (x.ndim - 1))) for x in parts)


def _top_step(task: Task, correction: Correction, k: int, block: int) -> Callable:
    """Return a step `(params, (host, excluded, group, by popularity), catalogue) -> fields of TopTitles`."""

    def step(params: Any, queries: tuple[Any, ...], catalogue: DeviceCatalogue) -> tuple[jax.Array, ...]:
        outputs = best_titles(task, correction, (k, block), params, queries, catalogue)
        return jax.lax.all_gather(outputs, AXIS, tiled=True)

    return step


def _allowed_trie(
    trie: TitleTrie, catalogue: DeviceCatalogue, excluded_BxM: jax.Array, group_B: jax.Array
) -> TitleTrie:
    """Return the sub-trie of each query's titles, so that no beam is of a title that a filter removes."""
    kept_BxV = catalogue.eligible_GxV[group_B]
    rank_BxM = jnp.where(excluded_BxM >= 0, excluded_BxM, kept_BxV.shape[1])
    kept_BxV = kept_BxV.at[jnp.arange(len(group_B))[:, None], rank_BxM].set(False, mode="drop")
    allowed_BxV = jnp.zeros((len(group_B), len(trie.node)), bool).at[:, catalogue.id_V].max(kept_BxV)
    return allow(trie, allowed_BxV, jnp)


def best_titles(
    task: Task, correction: Correction, size: tuple[int, int], params: Any, queries: tuple[Any, ...],
    catalogue: DeviceCatalogue,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Return the fields of `TopTitles` for the queries of one device.

    Args:
        task: Task of the checkpoint.
        correction: Rule of the final scores; its density is that of the catalogue.
        size: Number k of titles, and number of titles of a block.
        params: Parameters.
        queries: Packed rows of B queries; excluded ranks [B, M]; groups [B]; [B] bool, ordered by popularity.
        catalogue: Titles, padded to whole blocks.
    """
    host, excluded_BxM, group_B, popular_B = queries
    table, (k, block) = catalogue.table, size
    if table.trie is not None:
        table = table._replace(trie=_allowed_trie(table.trie, catalogue, excluded_BxM, group_B))
    encoded = task.encode_queries(params, host, table)
    B, query_Bx1 = len(group_B), jnp.arange(len(group_B))[:, None]

    def merge(best: tuple[jax.Array, jax.Array], start: jax.Array) -> tuple[Any, None]:
        id_N, log_q_N = (
            jax.lax.dynamic_slice_in_dim(x, start, block) for x in (catalogue.id_V, catalogue.log_q_V)
        )
        eligible_GxN = jax.lax.dynamic_slice_in_dim(catalogue.eligible_GxV, start, block, axis=1)
        column_BxM = excluded_BxM - start
        column_BxM = jnp.where((column_BxM >= 0) & (column_BxM < block), column_BxM, block)
        kept_BxN = jnp.ones((B, block), bool).at[query_Bx1, column_BxM].set(False, mode="drop")
        kept_BxN &= eligible_GxN[group_B] & (id_N >= FIRST_TITLE)
        score_BxN = task.score_titles(params, encoded, table, correction.head, id_N)
        score_BxN = (correction.scale * score_BxN + log_q_N).astype(jnp.float32)
        score_BxN = jnp.where(popular_B[:, None], -(start + jnp.arange(block)), score_BxN)
        score_BxN = jnp.where(kept_BxN & ~jnp.isnan(score_BxN), score_BxN, -jnp.inf)
        score_BxK, column_BxK = jax.lax.top_k(score_BxN, k)
        # The best of earlier blocks come first, and top_k puts the first of equal scores first.
        joined_BxK = jnp.concatenate([best[0], score_BxK], axis=1)
        rank_BxK = jnp.concatenate([best[1], start + column_BxK], axis=1)
        score_BxK, place_BxK = jax.lax.top_k(joined_BxK, k)
        return (score_BxK, jnp.take_along_axis(rank_BxK, place_BxK, axis=1)), None

    nothing = jnp.full((B, k), -jnp.inf, jnp.float32), jnp.zeros((B, k), jnp.int32)
    starts = jnp.arange(0, len(catalogue.id_V), block, dtype=jnp.int32)
    (score_Bxk, rank_Bxk), _ = jax.lax.scan(merge, nothing, starts)
    id_Bxk = jnp.where(score_Bxk > -jnp.inf, catalogue.id_V[rank_Bxk], 0)
    completion_Bxk = task.predict_completion(params, encoded, table, id_Bxk)
    if completion_Bxk is None:
        completion_Bxk = jnp.full(id_Bxk.shape, jnp.nan)
    return id_Bxk, score_Bxk, completion_Bxk.astype(jnp.float32)


def _score_step(task: Task, correction: Correction) -> Callable:
    """Return a step `(params, (host,), (table, (ids, log q))) -> scores [B, N]`."""

    def step(params: Any, queries: tuple[HostBatch], inputs: tuple[TitleTable, Any]) -> tuple[jax.Array]:
        table, (id_N, log_q_N) = inputs
        if table.trie is None:
            encoded = task.encode_queries(params, queries[0], table)
            score_BxN = task.score_titles(params, encoded, table, correction.head, id_N)
        else:  # the encoding holds the titles of beams alone
            score_BxN = task.policy_logits(params, queries[0], table)[:, id_N]
        score_BxN = correction.scale * score_BxN + log_q_N
        return (jax.lax.all_gather(score_BxN.astype(jnp.float32), AXIS, tiled=True),)

    return step
