"""Best titles of requests by an approximate index, scored and filtered exactly.

Axis letters: B queries, V titles by popularity rank, N candidates, D width of the vectors, k best titles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.arrays import Arrays
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.serving.catalogue import CatalogueScorer
from jaxrec.serving.exclusions import Exclusions
from jaxrec.serving.index.title_index import Calibration, is_installed, open_or_build
from jaxrec.serving.requests import TopTitles
from jaxrec.tasks.base import Task

INDEX_KINDS = ("auto", "exact", "ann")
EXACT_TITLES = 1_000_000  # "auto" ranks catalogues up to this size exactly
TARGET_RECALL = 0.98
_LEAST_EXPANSION, _MOST_EXPANSION = 128, 2**15
# Titles for each candidate of a search, at least, where "auto" uses the index. At a million titles of width
# 64 the speed of exact ranking was reached with 8,192 candidates on resampled vectors, 2,048 on normals.
_TITLES_PER_CANDIDATE = 512
_LEAST_CANDIDATES = 64
_MOST_EXCLUDED = 1024  # candidates that are fetched in place of excluded titles, at most
_MEASURED_REQUESTS, _MEASURED_TITLES = 64, 100


class IndexOptions(NamedTuple):
    """Choice of the index.

    Args:
        kind: "exact": all titles are scored. "ann": the approximate index. "auto": "ann" for more than
            `EXACT_TITLES` titles, if the score is an inner product, usearch is installed and the recall
            reaches `TARGET_RECALL` with few candidates; else "exact".
        folder: Folder in which the index is kept. None: in memory only.
        step: Step of the checkpoint.
    """

    kind: str = "auto"
    folder: AnyPath | None = None
    step: int | None = None


class VectorIndex(Protocol):
    """Interface of `GraphIndex`."""

    build_seconds: float
    is_new: bool

    @property
    def calibration(self) -> Calibration:
        """Candidates of a search."""
        ...

    def calibrate(self, calibration: Calibration) -> None:
        """Change the candidates of a search."""
        ...

    def search(self, vectors: np.ndarray, number: int, expansion: int = 0) -> np.ndarray:
        """Return ranks [U, number] of titles with large inner products; see `GraphIndex.search`."""
        ...


class IndexedScorer(CatalogueScorer):
    """Scorer of requests whose candidates are found by an index.

    Candidates are scored and filtered exactly; of equal scores the more popular title comes first. A request
    whose candidates run out is scored over all titles, as are requests by popularity.

    Args:
        task: Task of the checkpoint.
        params: Parameters.
        arrays: Arrays of the catalogue.
        correction: Rule of the final scores, whose head is in `task.dot_heads`.
        make_index: Function from vectors [V, D], by popularity rank, to their index.
        only_if_faster: True to score all titles if the recall does not reach `TARGET_RECALL`, or reaches it
            with so many candidates that exact ranking is faster.
    """

    def __init__(
        self, task: Task, params: Any, arrays: Arrays, correction: Correction,
        make_index: Callable[[np.ndarray], VectorIndex], only_if_faster: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(task, params, arrays, correction)
        head = correction.head
        vectors = self._embed_titles(("dot titles",), lambda p, table: task.dot_titles(p, table, head))
        vectors = vectors[arrays.id_of_rank]
        log_q_V = self._log_q_V[arrays.id_of_rank].astype(np.float32)
        # The log density is one more component; without it, one that is constant would be of no use.
        self._reads_log_q = bool(np.ptp(log_q_V)) if len(log_q_V) else False
        self.index = make_index(np.column_stack([vectors, log_q_V]) if self._reads_log_q else vectors)
        # One more row of zeros, for absent candidates.
        padded = np.pad(vectors, ((0, 1), (0, 0))), np.pad(arrays.id_of_rank, (0, 1)), np.pad(log_q_V, (0, 1))
        self._by_rank = replicate(padded)
        self._only_if_faster, self._requests, self._run_out = only_if_faster, 0, 0
        self._measured: Calibration | None = None

    def top(
        self, rows: np.ndarray, k: int, exclusions: Exclusions, by_popularity: np.ndarray | None = None
    ) -> TopTitles:
        """Return the k best eligible titles of each request; arguments as for `CatalogueScorer.top`."""
        popular = np.zeros(len(rows), bool) if by_popularity is None else by_popularity
        number = self._candidates(k, exclusions)
        modelled = np.flatnonzero(~popular)
        if 2 * number > self.titles or not len(modelled):
            return super().top(rows, k, exclusions, popular)
        if self._measured is None:
            self._measured = self.calibrate(rows[modelled[:_MEASURED_REQUESTS]])
        if self._only_if_faster and not self._is_faster(self._measured):
            return super().top(rows, k, exclusions, popular)
        top = self.indexed_top(rows[modelled], k, exclusions.select(modelled), number)
        out = TopTitles(*(np.empty((len(rows), k), column.dtype) for column in top))
        for column, values in zip(out, top, strict=True):
            column[modelled] = values
        run_out = top.id[:, -1] == 0
        self._requests, self._run_out = self._requests + len(modelled), self._run_out + int(run_out.sum())
        again = np.sort(np.concatenate([np.flatnonzero(popular), modelled[run_out]]))
        if len(again):
            exact = super().top(rows[again], k, exclusions.select(again), popular[again])
            for column, values in zip(out, exact, strict=True):
                column[again] = values
        return out

    def indexed_top(
        self, rows: np.ndarray, k: int, exclusions: Exclusions, number: int = 0, expansion: int = 0
    ) -> TopTitles:
        """Return the k best titles of each request among candidates of the index.

        Args:
            rows: [U] Layout.query_dtype().
            k: Number of titles.
            exclusions: Titles to leave out.
            number: Number of candidates, at least k; 0: enough for k titles and the excluded titles.
            expansion: Candidates of the search; 0: those of the calibration.
        """
        number = number or min(self._candidates(k, exclusions), self.titles)
        rank_UxN = self.index.search(self._user_vectors(rows), number, expansion)
        rank_UxN = np.where(_eligible(rank_UxN, exclusions, self.titles), rank_UxN, self.titles)
        rank_UxN.sort(axis=1)  # by popularity, because top_k puts the first of equal scores first
        step = self._step(("rescore", k), lambda: _rescore_step(self._task, self._correction, k))
        inputs = self._table, self._by_rank
        batch = self._batch_size(len(rows))
        return TopTitles(*self._run(step, batch, inputs, rows, rank_UxN.astype(np.int32)))

    def calibrate(self, rows: np.ndarray) -> Calibration:
        """Return the fewest candidates that reach the recall on these requests, and use them.

        The candidates of a search start from those of the index and are doubled, up to 32,768 or the number
        of titles, until recall@100 against the exact titles reaches `TARGET_RECALL`. No title is left out.

        Args:
            rows: [U] Layout.query_dtype().
        """
        k, nothing = min(_MEASURED_TITLES, self.titles), np.empty(0, np.int64)
        everything = np.ones((1, self.titles), bool)
        none = Exclusions(nothing, nothing, np.zeros(len(rows), np.int32), everything)
        exact = super().top(rows, k, none).id
        expansion = max(_LEAST_EXPANSION, self.index.calibration.expansion_search)
        while True:
            value = recall(exact, self.indexed_top(rows, k, none, expansion=expansion).id)
            if value >= TARGET_RECALL or 2 * expansion > min(_MOST_EXPANSION, self.titles):
                break
            expansion *= 2
        calibration = Calibration(expansion, value, len(rows), value >= TARGET_RECALL)
        if calibration != self.index.calibration:
            self.index.calibrate(calibration)
        if not calibration.reached:
            logging.warning(
                "index: recall@%d %.4f with %d candidates, below %.2f; --index=exact scores all titles",
                k, value, expansion, TARGET_RECALL,
            )  # fmt: skip
        return calibration

    def _is_faster(self, measured: Calibration) -> bool:
        return measured.reached and measured.expansion_search * _TITLES_PER_CANDIDATE <= self.titles

    def report(self) -> dict[str, Any]:
        """Return the recall of the index and the number of requests, as JSON values."""
        measured = self._measured or Calibration()
        return {
            "index": {
                f"recall@{_MEASURED_TITLES}": measured.recall,
                "measured_requests": measured.requests,
                "expansion_search": measured.expansion_search if self._measured else None,
                "requests": self._requests,
                "exact_requests": self._run_out,
                "is_new": self.index.is_new,
                "build_seconds": self.index.build_seconds,
            }
        }

    def _candidates(self, k: int, exclusions: Exclusions) -> int:
        """Return the number of candidates: a power of two, so that few programs are compiled."""
        most = int(np.bincount(exclusions.user).max(initial=0))
        return 1 << (max(k + min(most, _MOST_EXCLUDED), _LEAST_CANDIDATES) - 1).bit_length()

    def _user_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [U, D] whose products with the vectors of the index order the titles."""
        task, head = self._task, self._correction.head

        def make() -> Callable:
            def step(params: Any, queries: tuple[Any, ...], table: Any) -> tuple[jax.Array]:
                encoded = task.encode_queries(params, queries[0], table)
                vector_BxD = task.dot_users(params, encoded, head).astype(jnp.float32)
                return (jax.lax.all_gather(vector_BxD, AXIS, tiled=True),)

            return step

        step = self._step(("dot users",), make)
        (vectors,) = self._run(step, self._batch_size(len(rows)), self._table, rows)
        vectors = self._correction.scale * vectors
        return np.pad(vectors, ((0, 0), (0, 1)), constant_values=1.0) if self._reads_log_q else vectors


def recall(exact: np.ndarray, ids: np.ndarray) -> float:
    """Return the mean fraction of the exact titles that are in `ids`.

    Args:
        exact: [U, k] ids, 0 for no title.
        ids: [U, N] ids.
    """
    is_title = exact > 0
    is_shared = (exact[:, :, None] == ids[:, None]).any(axis=2) & is_title
    return float(is_shared.sum() / max(is_title.sum(), 1))


def _eligible(rank_UxN: np.ndarray, exclusions: Exclusions, titles: int) -> np.ndarray:
    """Return a mask [U, N] of the candidates that exist and are not left out."""
    place_UxN = np.minimum(rank_UxN, titles - 1)
    eligible_UxN = (rank_UxN < titles) & exclusions.eligible_GxV[exclusions.group[:, None], place_UxN]
    if not len(exclusions.user):
        return eligible_UxN
    pair_UxN = np.arange(len(rank_UxN))[:, None] * titles + place_UxN
    excluded = np.sort(exclusions.user * titles + exclusions.rank)
    place = np.minimum(np.searchsorted(excluded, pair_UxN), len(excluded) - 1)
    return eligible_UxN & (excluded[place] != pair_UxN)


def _rescore_step(task: Task, correction: Correction, k: int) -> Callable:
    """Return a step `(params, (host, candidates), (table, by rank)) -> fields of TopTitles`."""

    def step(params: Any, queries: tuple[Any, Any], inputs: tuple[Any, Any]) -> tuple[jax.Array, ...]:
        host, rank_BxN = queries
        table, (vector_VxD, id_V, log_q_V) = inputs
        encoded = task.encode_queries(params, host, table)
        user_BxD = task.dot_users(params, encoded, correction.head).astype(jnp.float32)
        score_BxN = jnp.einsum("bd,bnd->bn", user_BxD, vector_VxD[rank_BxN])
        score_BxN = correction.scale * score_BxN + log_q_V[rank_BxN]
        is_present_BxN = (id_V[rank_BxN] > 0) & ~jnp.isnan(score_BxN)
        score_Bxk, place_Bxk = jax.lax.top_k(jnp.where(is_present_BxN, score_BxN, -jnp.inf), k)
        id_Bxk = id_V[jnp.take_along_axis(rank_BxN, place_Bxk, axis=1)]
        id_Bxk = jnp.where(score_Bxk > -jnp.inf, id_Bxk, 0)
        completion_Bxk = task.predict_completion(params, encoded, table, id_Bxk)
        if completion_Bxk is None:
            completion_Bxk = jnp.full(id_Bxk.shape, jnp.nan)
        outputs = id_Bxk, score_Bxk, completion_Bxk.astype(jnp.float32)
        return jax.lax.all_gather(outputs, AXIS, tiled=True)

    return step


def open_scorer(
    task: Task, params: Any, arrays: Arrays, correction: Correction, options: IndexOptions
) -> CatalogueScorer:
    """Return the scorer of the catalogue that the options choose.

    Raises:
        InputError: The kind is unknown; "ann" without usearch, or the score is not an inner product.
    """
    if options.kind not in INDEX_KINDS:
        raise InputError(f"index={options.kind}; allowed: {', '.join(INDEX_KINDS)}")
    is_auto, is_product = options.kind == "auto", correction.head in task.dot_heads
    if options.kind == "ann" and not is_product:
        raise InputError(
            f"index=ann: the score of the head {correction.head!r} is not an inner product of a user and a "
            "title; allowed: index=exact"
        )
    is_large = len(arrays.id_of_rank) > EXACT_TITLES
    if options.kind == "exact" or (is_auto and not (is_large and is_product)):
        return CatalogueScorer(task, params, arrays, correction)
    if is_auto and not is_installed():
        logging.warning("all titles are scored, without an index: pip install 'jaxrec[ann]' for usearch")
        return CatalogueScorer(task, params, arrays, correction)
    inputs = task, params, arrays, correction
    return IndexedScorer(*inputs, lambda v: open_or_build(v, options.folder, options.step), is_auto)
