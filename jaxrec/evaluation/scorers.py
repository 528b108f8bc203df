"""A split's queries through the model: scores of the frozen lists, the target's rank among all titles."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.loading.batches import EvalBatches, PackedEvalBatches, stream
from jaxrec.data.storage.dataset import Rows
from jaxrec.models.two_stage import overlap, rank_among
from jaxrec.runtime.device_batch import DeviceBatch, transfer
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.runtime.parallel_step import parallelize_queries
from jaxrec.tasks.base import Task
from jaxrec.tasks.metric_sums import Sums

_CPU_QUERIES = 512  # of a device at a time: few are all overhead, many allocate more than malloc keeps
_PAIRS = 2**22  # of a query and a title that an accelerator scores at a time over the catalogue


class ListScores(NamedTuple):
    """What a model says of a split's Q queries."""

    scores: np.ndarray  # [Q, lists, K, 1 + negatives], the target first, by the head that ranks
    gate: np.ndarray  # [Q, E] weights of the experts, each row adding to 1
    sums: dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> (sum, count); empty without a loss
    by_head: dict[str, np.ndarray]  # the same as `scores` by every head that was asked


def eval_step(task: Task, next_k: int, with_loss: bool, heads: tuple[str, ...]) -> Callable:
    """Return a step that scores frozen lists, to be mapped over devices.

    The step is `((params, projections), batch, table) -> (head -> scores [B, lists, next_k, 1 + negatives],
    gate [B, E], sums)`, of all devices' queries in order; `projections` are of `Task.cached_projections`.
    """

    def step(inputs: tuple[Any, Any], host: HostBatch, table: TitleTable) -> tuple[Any, Any, Sums]:
        params, projections = inputs
        queries = task.score_lists(params, projections, host, table, next_k, heads, with_loss)
        scores, gate = jax.lax.all_gather((queries.by_head, queries.gate_BxE), AXIS, tiled=True)
        return scores, gate, jax.lax.psum(queries.sums, AXIS)

    return step


class _Queries:
    """A split's queries through a mapped step, `queries` at a time on a device."""

    def __init__(
        self, program: Task, table: TitleTable, step: Callable, queries: int, given: Callable
    ) -> None:
        """`given` makes of parameters what the step is given of them."""
        if jax.default_backend() == "cpu":
            queries = min(queries, _CPU_QUERIES)
        like = given(program.abstract_params) if program.shards_titles else None
        self._step, self._program, self._table = parallelize_queries(step, like), program, table
        self._batch_size = queries * jax.device_count()

    def _batches(self, rows: Rows) -> EvalBatches | PackedEvalBatches:
        """Return the split's batches: packed on one process; several would have to agree on an order."""
        packer = None if jax.process_count() > 1 else self._program.packer(rows.dtype)
        if packer is None:
            return EvalBatches(rows, self._batch_size, jax.process_index(), jax.process_count())
        return PackedEvalBatches(rows, self._batch_size, jax.device_count(), packer)

    def _ahead(self, given: Any, rows: Rows) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Each batch's outputs and places once the next is dispatched, so that the device is never waited for
        twice."""
        before = None
        prefetch = self._program.config.train.prefetch
        for batch, place in stream(self._batches(rows), prefetch=prefetch, then=_transfer_query):
            now = self._step(given, batch, self._table), place
            if before is not None:
                yield before
            before = now
        if before is not None:
            yield before


def _transfer_query(batch: HostBatch) -> tuple[DeviceBatch, np.ndarray | None]:
    """On its way to the devices, and the places, which stay."""
    return transfer(batch._replace(place=None)), batch.place


class ListScorer(_Queries):
    """Scores a split's frozen lists with given parameters, by the head that ranks and by any `others`;
    compiled once for each next_k."""

    def __init__(
        self,
        program: Task,
        table: TitleTable,
        with_loss: bool,
        next_k: int,
        others: tuple[str, ...] = (),
    ) -> None:
        queries = program.config.evaluate.batch_size // jax.device_count()
        step = eval_step(program, next_k, with_loss, (program.ranking_heads[0], *others))
        super().__init__(program, table, step, queries, lambda params: (params, None))
        self._score_task = program.ranking_heads[0]
        self._catalogue = jax.jit(program.cached_projections, static_argnums=2)

    def __call__(self, params: Any, rows: Rows) -> ListScores:
        """Of every row, in order."""
        found, sums, places = [], [], []
        params = as_global_arrays(params)  # as the table is
        given = params, self._catalogue(params, self._table, self._batch_size // jax.device_count())
        for (*some, added), place in self._ahead(given, rows):
            found.append(jax.device_get(some))
            sums.append(jax.device_get(added))
            places.append(place)
        by_head, gate = jax.tree.map(lambda *parts: _reorder(parts, places, rows.rows), *found)
        return ListScores(by_head[self._score_task], gate, _sum_batches(sums), by_head)


class CatalogueRanks(NamedTuple):
    """What a model shows of the whole catalogue to a split's Q queries (K=1)."""

    ranks: np.ndarray  # [Q] the target's, from 1, among the titles that stand for election
    top: np.ndarray  # [Q, top] ids of the best of them, the best first; 0 where there are no more
    retrieved: np.ndarray  # [Q] the target's rank by the retrieval head alone; empty where not asked for
    staged: np.ndarray  # [Q] and in two stages, V where it is not found
    kept: np.ndarray  # [Q] the share of `top` that two stages show too, among as many
    sums: dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> (sum, count); empty without a loss


class CatalogueRanker(_Queries):
    """Ranks all titles for each query, by the head that ranks; ties and NaN count against the target, and
    among equals the more popular title (the lower id) is shown.

    With `filtered`, titles of the stored history, abandoned ones too, are no rivals of the target and are
    not shown; else they are like any other, for who has seen one may watch it again. With `with_loss`
    also -log of the target's share in a softmax over all titles, of scores divided by a `temperature`.
    With `retrieve`, also in two stages: so many titles by the model's retrieval head, then in order.
    """

    def __init__(
        self, program: Task, table: TitleTable, filtered: bool = False, top: int = 0,
        with_loss: bool = False, temperature: float = 1.0, retrieve: int = 0,
    ) -> None:  # fmt: skip
        step = _rank_step(program, filtered, top, temperature if with_loss else None, retrieve)
        super().__init__(program, table, step, max(_PAIRS // program.layout.titles, 1), lambda params: params)

    def __call__(self, params: Any, rows: Rows) -> CatalogueRanks:
        """Of every row, in order."""
        found, sums, places = [], [], []
        for (*some, added), place in self._ahead(as_global_arrays(params), rows):
            found.append(jax.device_get(some))
            sums.append(jax.device_get(added))
            places.append(place)
        each = (_reorder(parts, places, rows.rows) for parts in zip(*found, strict=True))
        ranks, top, retrieved, staged, of_top = each
        return CatalogueRanks(ranks, top, retrieved, staged, of_top, _sum_batches(sums))


def _rank_step(
    program: Task, filtered: bool, top: int, temperature: float | None, retrieve: int
) -> Callable:  # fmt: skip
    """A step `(params, batch, table)` of every device's share, in order: all of `Ranked`; sums with a
    temperature alone."""

    def step(params: Any, host: HostBatch, table: TitleTable) -> tuple[Any, ...]:
        scores_BxV, target_B, seen_BxL = program.score_all_titles(params, host, table)
        title_1xV, target_Bx1 = jnp.arange(program.layout.titles)[None], target_B[:, None]
        rivals_BxV = (title_1xV != target_Bx1) & (title_1xV >= FIRST_TITLE)
        if filtered:
            query_Bx1 = jnp.arange(len(scores_BxV))[:, None]
            rivals_BxV &= jnp.ones_like(rivals_BxV).at[query_Bx1, seen_BxL].set(False)
        stands_BxV = rivals_BxV | (title_1xV == target_Bx1)

        def ranks(scores_BxV: jax.Array) -> jax.Array:
            its_own_Bx1 = jnp.take_along_axis(scores_BxV, target_Bx1, axis=1)
            return 1 + (rivals_BxV & ~(scores_BxV < its_own_Bx1)).sum(1)

        shown_BxV = jnp.where(stands_BxV & ~jnp.isnan(scores_BxV), scores_BxV, -jnp.inf)
        best_Bxk, id_Bxk = jax.lax.top_k(shown_BxV, top)
        id_Bxk = jnp.where(best_Bxk > -jnp.inf, id_Bxk, 0)
        in_two = 3 * (jnp.zeros((len(scores_BxV), 0)),)
        if retrieve:
            head_BxV, shown = program.two_stages(params, host, table, stands_BxV, retrieve)
            staged_B = rank_among(shown, target_B, program.layout.titles)
            in_two = ranks(head_BxV), staged_B, overlap(id_Bxk, shown.id_BxN)
        ranked = jax.lax.all_gather((ranks(scores_BxV), id_Bxk, *in_two), AXIS, tiled=True)
        sums: Sums = {}
        if temperature is not None:
            logits_BxV = jnp.where(title_1xV >= FIRST_TITLE, scores_BxV, -jnp.inf) / temperature
            own_B = jnp.take_along_axis(logits_BxV, target_Bx1, axis=1)[:, 0]
            loss_B = jax.nn.logsumexp(logits_BxV, axis=1) - own_B
            sums = {"loss": (jnp.where(host.valid, loss_B, 0.0).sum(), host.valid.sum())}
        return *ranked, jax.lax.psum(sums, AXIS)

    return step


def _sum_batches(sums: Sequence[Sums]) -> Sums:
    """Batches' sums and counts, added up in float64."""
    return jax.tree.map(lambda *parts: sum(np.asarray(p, np.float64) for p in parts), *sums)


def _reorder(parts: Sequence[Any], places: Sequence[np.ndarray | None], rows: int) -> np.ndarray:
    """[rows, ...] of what batches found of the rows at their places, -1 for padding; in order without."""
    found = np.concatenate(parts)
    if any(place is None for place in places):
        return found[:rows]
    at = np.concatenate([place for place in places if place is not None])
    out = np.empty((rows, *found.shape[1:]), found.dtype)
    out[at[at >= 0]] = found[at >= 0]
    return out
