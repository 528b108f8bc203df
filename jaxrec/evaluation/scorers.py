"""Model scores of queries: frozen candidate lists, and ranks among all titles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.data.loading.batches import EvalBatches, PackedEvalBatches, stream
from jaxrec.data.loading.left_out import Seen, bit_words
from jaxrec.data.storage.dataset import Rows
from jaxrec.models.diversity import CANDIDATES, intra_list_distance, rank_diversely, unit_vectors
from jaxrec.models.outputs import Correction
from jaxrec.models.two_stage import overlap, rank_among, top_titles
from jaxrec.runtime.device_batch import DeviceBatch, transfer
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.runtime.parallel_step import parallelize_queries
from jaxrec.tasks.base import Task
from jaxrec.tasks.outputs import Sums

_CPU_QUERIES = 512  # per device and step: fewer are all overhead, more allocate more than malloc keeps
_PAIRS = 2**22  # (query, title) pairs that an accelerator scores per step over the catalogue
MMR_ORDER = "model_mmr"


class ListScores(NamedTuple):
    """Scores and gate weights of a model for the Q queries of a split.

    Attributes:
        scores: [Q, lists, K, 1 + negatives], the target first, by the head that ranks.
        gate: [Q, E] weights of the experts; each row sums to 1.
        sums: Metric -> (sum, count); empty without a loss.
        by_head: Head -> scores as in `scores`, for each requested head.
        outcomes: Head of `Task.label_heads` -> label [Q] of the first target, and mask [Q] of known labels.
    """

    scores: np.ndarray
    gate: np.ndarray
    sums: dict[str, tuple[np.ndarray, np.ndarray]]
    by_head: dict[str, np.ndarray]
    outcomes: dict[str, tuple[np.ndarray, np.ndarray]]


def eval_step(task: Task, next_k: int, with_loss: bool, heads: tuple[str, ...]) -> Callable:
    """Return a step that scores frozen lists, to be mapped over devices.

    Args:
        task: the task.
        next_k: number of next titles K to score.
        with_loss: True to compute the sums of the validation loss.
        heads: names of the heads that score.

    Returns:
        A step `((params, projections), batch, table) -> (head -> scores [B, lists, next_k, 1 + negatives],
        gate [B, E], outcomes, sums)`. The outputs cover the queries of all devices, in order; `projections`
        are from `Task.cached_projections`.
    """

    def step(inputs: tuple[Any, Any], host: HostBatch, table: TitleTable) -> tuple[Any, Any, Any, Sums]:
        params, projections = inputs
        queries = task.score_lists(params, projections, host, table, next_k, heads, with_loss)
        local = (queries.by_head, queries.gate_BxE, queries.outcomes)
        return *jax.lax.all_gather(local, AXIS, tiled=True), jax.lax.psum(queries.sums, AXIS)

    return step


class QueryRunner:
    """Runner of a mapped step over the queries of a split.

    Args:
        task: The task.
        table: Title features on the devices.
        step: The step of one device, `(inputs, batch, table) -> outputs`.
        queries: Queries per device and step; at most `_CPU_QUERIES` on a CPU.
        to_inputs: Function from parameters to the inputs of the step.
    """

    def __init__(
        self, task: Task, table: TitleTable, step: Callable, queries: int, to_inputs: Callable
    ) -> None:
        if jax.default_backend() == "cpu":
            queries = min(queries, _CPU_QUERIES)
        like = to_inputs(task.abstract_params) if task.shards_titles else None
        self._step, self._task, self._table = parallelize_queries(step, like), task, table
        self._batch_size = queries * jax.device_count()

    def _batches(self, rows: Rows) -> EvalBatches | PackedEvalBatches:
        """Return the batches of a split, packed if there is a single process.

        Packing changes the order of the rows, and several processes would have to agree on one order. The
        number of packed rows depends on the histories of the split: where ids lack a title, as in a chain of
        daily updates, the queries of each day would be another program to compile.
        """
        is_packed = jax.process_count() == 1 and not self._task.layout.has_gaps
        packer = self._task.packer(rows.dtype) if is_packed else None
        if packer is None:
            return EvalBatches(rows, self._batch_size, jax.process_index(), jax.process_count())
        return PackedEvalBatches(rows, self._batch_size, jax.device_count(), packer)

    def _run(self, inputs: Any, rows: Rows) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Yield outputs and row indices of each batch, after the next batch starts.

        The device computes the next batch while the host reads the outputs.
        """
        previous = None
        prefetch = self._task.config.train.prefetch
        for batch, row_index in stream(self._batches(rows), prefetch=prefetch, then=_transfer_query):
            current = self._step(inputs, batch, self._table), row_index
            if previous is not None:
                yield previous
            previous = current
        if previous is not None:
            yield previous


def _transfer_query(batch: HostBatch) -> tuple[DeviceBatch, np.ndarray | None]:
    """Start the transfer of a batch; return device batch and host row indices."""
    return transfer(batch._replace(place=None)), batch.place


class ListScorer(QueryRunner):
    """Scorer of frozen lists, by the head that ranks and by `other_heads`.

    A scorer is compiled once, and can be called with different parameters.

    Args:
        task: The task.
        table: Title features on the devices.
        with_loss: True to compute the sums of the validation loss.
        next_k: Number of next titles K to score.
        other_heads: Names of further heads that score.
    """

    def __init__(
        self,
        task: Task,
        table: TitleTable,
        with_loss: bool,
        next_k: int,
        other_heads: tuple[str, ...] = (),
    ) -> None:
        queries = task.config.evaluate.batch_size // jax.device_count()
        step = eval_step(task, next_k, with_loss, (task.ranking_heads[0], *other_heads))
        super().__init__(task, table, step, queries, lambda params: (params, None))
        self._ranking_head = task.ranking_heads[0]
        self._project_titles = jax.jit(task.cached_projections, static_argnums=2)

    def __call__(self, params: Any, rows: Rows) -> ListScores:
        """Return the scores of all rows, in order."""
        outputs, sums, row_indices = [], [], []
        params = as_global_arrays(params)  # like the table
        inputs = params, self._project_titles(params, self._table, self._batch_size // jax.device_count())
        for (*batch_outputs, batch_sums), row_index in self._run(inputs, rows):
            outputs.append(jax.device_get(batch_outputs))
            sums.append(jax.device_get(batch_sums))
            row_indices.append(row_index)
        by_head, gate, outcomes = jax.tree.map(
            lambda *batches: in_order(batches, row_indices, rows.rows), *outputs
        )
        return ListScores(by_head[self._ranking_head], gate, add_batches(sums), by_head, outcomes)


class CatalogueOrder(NamedTuple):
    """Ranks and recommended titles by one order of the whole catalogue, for Q queries (K=1).

    Attributes:
        ranks: [Q] ranks of the targets, from 1, among the eligible titles.
        top: [Q, top] ids of the best eligible titles, the best first; 0 for none.
        distance: [Q] mean cosine distance of two titles of `top`; None unless diversity is evaluated.
    """

    ranks: np.ndarray
    top: np.ndarray
    distance: np.ndarray | None = None


class CatalogueRanks(NamedTuple):
    """Rankings of the whole catalogue, for Q queries (K=1).

    Attributes:
        by_order: Rankings by name of the correction, and RETRIEVAL_HEAD and MMR_ORDER if requested.
        staged: [Q] ranks of the targets in two stages, V if not retrieved; empty unless requested.
        kept: [Q] fraction of `top` among the best `top` of two stages; empty unless requested.
        sums: Metric -> (sum, count); empty without a loss.
    """

    by_order: dict[str, CatalogueOrder]
    staged: np.ndarray
    kept: np.ndarray
    sums: dict[str, tuple[np.ndarray, np.ndarray]]


class CatalogueRanker(QueryRunner):
    """Ranker of all titles for each query, by corrected scores.

    Ties and NaN count against the target. Among titles with equal scores, the more popular title (the lower
    `table.rank`) is recommended first.

    Args:
        task: The task.
        table: Title features on the devices.
        corrections: Orders of the catalogue by name; two stages use the first. None: the scores of the first
            of `task.catalogue_heads`, as "model".
        seen: Titles that neither compete with the target nor are recommended. "stored": those of the stored
            history, including abandoned titles. "all": those that the rows add (`Rows.with_words` with
            `LeftOutTitles.bits`). "kept": none, since users can watch a title again.
        top: Number of recommended titles per query.
        temperature: Divisor of the scores of the first order in a softmax over all titles, of which -log of
            the probability of the target is the loss. None: no loss.
        retrieve: Number of titles of a two-stage ranking, in addition to the exact rankings: the retrieval
            head selects the titles, the first correction orders them. 0: no two-stage ranking.
        diversity: Weight of dissimilarity of MMR_ORDER, the first order with its best titles in the order of
            MMR. It needs `top`. 0: no such order.
    """

    def __init__(
        self, task: Task, table: TitleTable, corrections: Mapping[str, Correction] | None = None,
        seen: Seen = "kept", top: int = 0, temperature: float | None = None, retrieve: int = 0,
        diversity: float = 0.0,
    ) -> None:  # fmt: skip
        corrections = dict(corrections or {"model": Correction(task.catalogue_heads[0])})
        self._orders = corrections | ({RETRIEVAL_HEAD: Correction(RETRIEVAL_HEAD)} if retrieve else {})
        step = _rank_step(task, self._orders, seen, top, temperature, retrieve, diversity)
        self._seen, self._names = seen, [*self._orders, *([MMR_ORDER] if diversity else [])]
        super().__init__(task, table, step, max(_PAIRS // task.layout.num_titles, 1), lambda params: params)

    def __call__(self, params: Any, rows: Rows) -> CatalogueRanks:
        """Return the rankings for all rows, in order."""
        if (self._seen == "all") != rows.has_more_words:
            raise ValueError("only with seen='all', rows add the titles left out")
        outputs, sums, row_indices = [], [], []
        for (*batch_outputs, batch_sums), row_index in self._run(as_global_arrays(params), rows):
            outputs.append(jax.device_get(batch_outputs))
            sums.append(jax.device_get(batch_sums))
            row_indices.append(row_index)
        arrays = (in_order(batches, row_indices, rows.rows) for batches in zip(*outputs, strict=True))
        ranks_QxO, top_QxOxk, distance_QxO, staged, overlaps = arrays
        by_order = {
            name: CatalogueOrder(
                ranks_QxO[:, i], top_QxOxk[:, i], distance_QxO[:, i] if distance_QxO.shape[1] else None
            )
            for i, name in enumerate(self._names)
        }
        return CatalogueRanks(by_order, staged, overlaps, add_batches(sums))


def _rank_step(
    task: Task, orders: Mapping[str, Correction], seen: Seen, top: int, temperature: float | None,
    retrieve: int = 0, diversity: float = 0.0,
) -> Callable:  # fmt: skip
    """Return a step that ranks all titles, to be mapped over devices.

    The step is `(params, batch, table) -> (ranks [B, O], top [B, O, top], distance [B, O], staged, kept,
    sums)` for O orders, over the queries of all devices, in order. Without a temperature, `sums` is empty.
    """
    heads = tuple(dict.fromkeys(correction.head for correction in orders.values()))
    first = next(iter(orders.values()))

    def step(params: Any, host: HostBatch, table: TitleTable) -> tuple[Any, ...]:
        by_head, target_B, seen_BxL = task.score_all_titles(params, host, table, heads)
        title_1xV, target_Bx1 = jnp.arange(task.layout.num_titles)[None], target_B[:, None]
        B = len(target_B)
        titles_V = task.candidates(table)
        rivals_BxV = (title_1xV != target_Bx1) & (title_1xV >= FIRST_TITLE if titles_V is None else titles_V)
        if seen == "stored":
            rivals_BxV &= jnp.ones_like(rivals_BxV).at[jnp.arange(B)[:, None], seen_BxL].set(False)
        elif seen == "all":
            rivals_BxV &= ~_unpack_bits(host.words, task.layout.num_titles)
        eligible_BxV = rivals_BxV | (title_1xV == target_Bx1)

        def rank(correction: Correction) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Return the ranks [B] of the targets, the best titles [B, top] and the scores [B, V]."""
            scores_BxV = correction(by_head[correction.head])
            target_score_Bx1 = jnp.take_along_axis(scores_BxV, target_Bx1, axis=1)
            rank_B = 1 + (rivals_BxV & ~(scores_BxV < target_score_Bx1)).sum(1)
            shown_BxV = jnp.where(eligible_BxV & ~jnp.isnan(scores_BxV), scores_BxV, -jnp.inf)
            if not top:
                return rank_B, jnp.zeros((B, 0), jnp.int32), shown_BxV
            best_Bxk, id_Bxk = top_titles(shown_BxV, top, table.rank)
            return rank_B, jnp.where(best_Bxk > -jnp.inf, id_Bxk, 0), shown_BxV

        ranks, tops, shown = zip(*(rank(correction) for correction in orders.values()), strict=True)
        distances = jnp.zeros((B, 0))
        if diversity:
            unit_VxF = unit_vectors(task.embed_titles(params, table).astype(jnp.float32))
            number = min(top * CANDIDATES, task.layout.num_titles - FIRST_TITLE)
            candidates = top_titles(shown[0], number, table.rank)
            order = rank_diversely(*candidates, ranks[0], target_B, unit_VxF, top, diversity)
            ranks, tops = (*ranks, order[0]), (*tops, order[1])
            distances = jnp.stack([intra_list_distance(id_Bxk, unit_VxF) for id_Bxk in tops], 1)
        two_stage_outputs = 2 * (jnp.zeros((B, 0)),)
        if retrieve:
            recommended = task.two_stages(params, host, table, eligible_BxV, retrieve, first)
            staged_B = rank_among(recommended, target_B, task.layout.num_titles)
            two_stage_outputs = staged_B, overlap(tops[0], recommended.id_BxN)
        local = (jnp.stack(ranks, 1), jnp.stack(tops, 1), distances, *two_stage_outputs)
        ranked = jax.lax.all_gather(local, AXIS, tiled=True)
        sums: Sums = {}
        if temperature is not None:
            logits_BxV = first(by_head[first.head]) / temperature
            if titles_V is not None:
                logits_BxV = jnp.where(titles_V | (title_1xV == target_Bx1), logits_BxV, -jnp.inf)
            sums = _loss_sums(logits_BxV, target_Bx1, jnp.asarray(host.valid))
        return *ranked, jax.lax.psum(sums, AXIS)

    return step


def _loss_sums(logits_BxV: jax.Array, target_Bx1: jax.Array, valid_B: jax.Array) -> Sums:
    """Return the sum and the count of -log of the softmax probability of the targets over all titles."""
    is_title_1xV = jnp.arange(logits_BxV.shape[1])[None] >= FIRST_TITLE
    logits_BxV = jnp.where(is_title_1xV, logits_BxV, -jnp.inf)
    own_B = jnp.take_along_axis(logits_BxV, target_Bx1, axis=1)[:, 0]
    loss_B = jax.nn.logsumexp(logits_BxV, axis=1) - own_B
    return {"loss": (jnp.where(valid_B, loss_B, 0.0).sum(), valid_B.sum())}


def _unpack_bits(words_BxW: Any, titles: int) -> jax.Array:
    """Return the bits of `LeftOutTitles.bits`, the last words of rows, as a mask [B, V]."""
    bits_BxWx32 = words_BxW[:, -bit_words(titles) :, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return bits_BxWx32.reshape(len(words_BxW), -1)[:, :titles] != 0


def add_batches(sums: Sequence[Sums]) -> Sums:
    """Add up the sums and counts of all batches, in float64."""
    return jax.tree.map(lambda *batches: sum(np.asarray(x, np.float64) for x in batches), *sums)


def in_order(batches: Sequence[Any], row_indices: Sequence[np.ndarray | None], rows: int) -> np.ndarray:
    """Concatenate the outputs of batches in the order of the rows.

    Args:
        batches: outputs [B, ...] of each batch.
        row_indices: row index [B] of each output, -1 for padding; None if batches are in order.
        rows: number of rows.

    Returns:
        Outputs [rows, ...].
    """
    values = np.concatenate(batches)
    if any(index is None for index in row_indices):
        return values[:rows]
    index = np.concatenate([index for index in row_indices if index is not None])
    out = np.empty((rows, *values.shape[1:]), values.dtype)
    out[index[index >= 0]] = values[index >= 0]
    return out
