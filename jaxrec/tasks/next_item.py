"""Next-item task: a causal model predicts the next title at every position."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

from jaxrec.config.heads import KIND, HeadSpec
from jaxrec.core.batch import HostBatch, Outcome, TitleTable
from jaxrec.core.ids import CATALOGUE, LABELS, PAD
from jaxrec.losses import next_item
from jaxrec.losses.ranking import engagement_weight
from jaxrec.models.layers.dense import applied
from jaxrec.models.next_item import ItemWindow, NextItemModel
from jaxrec.models.outputs import titles_by_rank
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import negative_sampling, next_item_inputs
from jaxrec.tasks.base import Task
from jaxrec.tasks.heads import state_heads
from jaxrec.tasks.inputs.later_plays import target_sets
from jaxrec.tasks.inputs.state_terms import StateScores, state_scores, state_terms
from jaxrec.tasks.inputs.tokens import empty_inputs
from jaxrec.tasks.outputs import Protocols, Sums, TitleScores

# Positions of a microbatch on a CPU: the intermediate values of more positions do not fit into its caches.
_CPU_POSITIONS = 4096
# Up to one in 4 windows of a microbatch may be long; with more, all windows are computed at full length.
_LONG_RATIO = 4


@dataclass(frozen=True, eq=False)
class NextItemTask(Task):
    """The objective `config.next_item` on windows of sequences.

    The loss of a step is the mean over the positions that have a next title. A personalised objective weights
    each position by Eq. 13.
    """

    rows: ClassVar[str] = "next_item"

    @property
    def size(self) -> int:
        """Number of positions of a window."""
        return self.config.model.experts[0].max_len

    @cached_property
    def model(self) -> NextItemModel:
        """Model of the config, on the dataset's features."""
        m = self.config.model
        titles, kinds = self.layout.num_titles, len(self.layout.token_kinds)
        heads = tuple((head.name, head.outputs) for head in self.state_heads)
        return NextItemModel(m.dtype, self.layout.features, titles, m, token_kinds=kinds, state_heads=heads)

    @cached_property
    def state_heads(self) -> tuple[HeadSpec, ...]:
        """Heads on the states of positions."""
        return state_heads(self.config, self.layout, self.label_shares)

    def protocols(self) -> Protocols:
        """Return ranking among all titles; NDCG@10 chooses the best checkpoint.

        A model whose titles have no loss is measured by the mean AUC of its heads of labels.
        """
        if not self.config.next_item.weight:
            return Protocols((), (LABELS, "auc"))
        return Protocols((), (CATALOGUE, "ndcg@10"), self.config.next_item.temperature, is_policy=True)

    @property
    def label_heads(self) -> tuple[str, ...]:
        return tuple(head.name for head in self._query_heads if head.loss != "softmax")

    @property
    def category_heads(self) -> tuple[str, ...]:
        return tuple(head.name for head in self._query_heads if head.loss == "softmax")

    def head_loss(self, name: str) -> str:
        return next(head.loss for head in self.state_heads if head.name == name)

    @property
    def _query_heads(self) -> tuple[HeadSpec, ...]:
        """Heads on states whose targets queries have: what comes next is a play at each of them."""
        return tuple(head for head in self.state_heads if head.of != KIND)

    def microbatch_limit(self, backend: str) -> int:
        """Return a bound from the number of positions on a CPU, else 0; see `Task`."""
        return max(_CPU_POSITIONS // self.size, 1) if backend == "cpu" else 0

    def projects_once(self, device_batch: int) -> bool:
        """Return True: all titles are projected once per step."""
        return True

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """Return the initial parameters of the model; see `Task`."""
        zeros = jnp.zeros((1, self.size), jnp.int32)
        tokens = empty_inputs(self.layout, self.size) if self.layout.token_kinds else None
        window = ItemWindow(zeros, zeros.astype(jnp.uint32), zeros.astype(jnp.uint32), tokens)
        return self.model.init(key, window, table, method="of_table")["params"]

    def project_titles(self, params: Any, table: TitleTable, context: Any = None) -> Any:
        """Return the vectors [V, D] of all titles, as `NextItemModel.catalogue` does."""
        return self.model.apply({"params": params}, table, method="catalogue")

    def device_context(self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable) -> Any:
        """Return the pool of negatives.

        The pool of "in_batch" holds the targets of the global batch, in the order of the batch. The arguments
        are
        those of `Task.device_context`.
        """
        ranked = titles_by_rank(table.rank) if self.layout.has_gaps else None
        if self.config.next_item.negative_distribution != "in_batch":
            return negative_sampling.NegativePool(self.layout.num_titles, ranked=ranked)
        size = len(host.valid)
        count = self.microbatches(size)
        key = jnp.zeros((size, 2), jnp.uint32)
        windows = next_item_inputs.training(host.words, self.layout, self.size, 0.0, 0.0, key)
        # Axis letters: D devices, M microbatches of a device, S examples of a microbatch.
        ids_MxSxL = jnp.where(host.valid[:, None], windows.target, 0).reshape(count, size // count, self.size)
        ids_DxMxSxL = jax.lax.all_gather(ids_MxSxL, AXIS)
        # Rows go round robin to the microbatches of all devices: `parallel_step.example_rows`.
        return negative_sampling.NegativePool(
            self.layout.num_titles, ids=jnp.moveaxis(ids_DxMxSxL, 2, 0).reshape(-1)
        )

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the scalar loss summed over positions with a next title, and its (sum, count).

        The arguments are those of `Task.loss`; `context` is the pool of negatives.
        """
        chex.assert_shape(host.valid, (len(host.words),), custom_message="host.valid [B]")
        chex.assert_shape(key, (len(host.words), 2), custom_message="key [B, 2]")
        sampling = self.config.sampling
        random, alpha = next_item_inputs.random_share(sampling), sampling.stochastic_length
        windows = next_item_inputs.training(
            host.words, self.layout, self.size, random, sampling.id_dropout, key, self._num_later
        )
        windows = next_item_inputs.masked(windows, host.valid)
        projections = self.project_titles(params, table) if projections is None else projections
        inputs = params, projections, context, table
        if not alpha:
            return self._window_loss(*inputs, windows, key)
        windows, long_B = next_item_inputs.stochastic_length(windows, alpha, key)
        kept, max_long = next_item_inputs.kept_positions(self.size, alpha), -(-len(long_B) // _LONG_RATIO)

        def split_loss() -> tuple[jax.Array, Sums]:
            """Add the loss of `max_long` long windows and of the other windows.

            Windows that are not long have at most `kept` positions.
            """
            first = jnp.argsort(~long_B, stable=True)[:max_long]
            longs = jax.tree.map(lambda x: x[first], windows)
            longs = next_item_inputs.masked(longs, long_B[first])
            shorts = jax.tree.map(lambda x: x[:, -kept:], windows)
            shorts = next_item_inputs.masked(shorts, ~long_B)
            return jax.tree.map(
                jnp.add,
                self._window_loss(*inputs, longs, key[first]),
                self._window_loss(*inputs, shorts, key),
            )

        return jax.lax.cond(
            long_B.sum() <= max_long, split_loss, lambda: self._window_loss(*inputs, windows, key)
        )

    def _window_loss(
        self,
        params: Any,
        projections: Any,
        pool: negative_sampling.NegativePool,
        table: TitleTable,
        windows: next_item_inputs.TargetWindows,
        key: jax.Array,
    ) -> tuple[jax.Array, Sums]:
        """Return the summed loss of windows of any length, and its (sum, count).

        Args:
            projections: From `project_titles`.
            pool: Source of the negatives.
            table: Features of all titles.
            key: [B, 2] uint32, one key for each row.
        """
        weight = self.config.next_item.weight
        h_BxLxD = applied(NextItemModel.__call__, self.model, params)(windows.window, projections, key)
        total, count = jnp.zeros((), jnp.float32), (windows.target > 0).sum()
        if weight:
            total = self._title_loss(params, h_BxLxD, projections, pool, table, windows, key)
        if not self.state_heads:
            return total, {"loss": (total, count)}
        scores = applied(NextItemModel.state_scores, self.model, params)(h_BxLxD)
        of_heads, sums = state_terms(
            self.state_heads, scores, windows.target, windows.outcome, self.config, self.layout, table
        )
        if not weight:
            return of_heads, {"loss": (of_heads, count)} | sums
        summed = (total if weight == 1 else weight * total) + of_heads
        return summed, {"loss": (summed, count), "loss_next_item": (total, count)} | sums

    def _title_loss(
        self, params: Any, h_BxLxD: jax.Array, projections: Any, pool: negative_sampling.NegativePool,
        table: TitleTable, windows: next_item_inputs.TargetWindows, key: jax.Array,
    ) -> jax.Array:  # fmt: skip
        """Return the loss of the next titles, summed over positions; arguments as for `_window_loss`.

        Args:
            h_BxLxD: Outputs of the positions.
        """
        objective, positions = self.config.next_item, windows.target.shape[1]
        candidates_VxD: Any = self.model.apply({"params": params}, projections, method="candidates")
        negatives, log_q = None, None
        if objective.loss != "softmax":
            distribution, shared_by = objective.negative_distribution, objective.negatives_shared_by
            negatives = negative_sampling.draw(
                key, distribution, shared_by, positions, objective.negatives, pool
            )
            if shared_by == "position":
                # Counted from the newest position, so the draws of a position do not depend on the length.
                negatives = negatives[:, ::-1]
            log_q = negative_sampling.log_q(distribution, pool) if objective.logq_correction else None
        titles, (sets, factor_BxL) = self.candidates(table), self._target_sets(windows)
        loss_BxL = next_item.next_item_loss(
            next_item.Positions(h_BxLxD, candidates_VxD, windows.target, negatives, log_q, titles, sets),
            objective,
        )
        if factor_BxL is not None:
            loss_BxL = loss_BxL * factor_BxL
        return jnp.where(windows.target > 0, loss_BxL, 0.0).sum()

    def score_states(self, params: Any, host: HostBatch, table: TitleTable) -> StateScores:
        """Score queries by the heads on the states of their newest positions; see `Task`."""
        window, rows = next_item_inputs.queries(host.words, self.layout, self.size)
        projections, heads = self.project_titles(params, table), self._query_heads
        h_BxLxD = applied(NextItemModel.__call__, self.model, params)(window, projections)
        scores = applied(NextItemModel.state_scores, self.model, params)(h_BxLxD[:, -1:])
        target_Bx1 = jnp.where(jnp.asarray(host.valid)[:, None], rows["target"], PAD)
        outcome = Outcome(rows["target_completion"], rows.get("label"), rows.get("label_known"))
        return state_scores(heads, scores, target_Bx1, outcome, self.config, self.layout, table)

    @property
    def _num_later(self) -> int:
        """Number of plays among which a position's targets are; 0: the next play is the only target."""
        return self.config.next_item.most if self.config.next_item.horizon_hours else 0

    def _target_sets(
        self, windows: next_item_inputs.TargetWindows
    ) -> tuple[next_item.TargetSets | None, jax.Array | None]:
        """Return the targets of positions if there are several, and the factor [B, L] of the loss."""
        objective = self.config.next_item
        if windows.later is not None:
            sets, factor_BxL = target_sets(windows.later, windows.target, objective, self.threshold)
            return sets, factor_BxL if objective.personalised else None
        if objective.personalised:
            return None, engagement_weight(windows.outcome.completion, objective.alpha, self.threshold)
        return None, None

    @property
    def catalogue_heads(self) -> tuple[str, ...]:
        return ("next_item",)

    def score_all_titles(
        self, params: Any, host: HostBatch, table: TitleTable, heads: tuple[str, ...] = ()
    ) -> TitleScores:
        """Score all titles [B, V] after the newest position of each query; see `Task`."""
        window, rows = next_item_inputs.queries(host.words, self.layout, self.size)
        variables: Any = {"params": params}
        projections = self.project_titles(params, table)
        h_BxLxD = applied(NextItemModel.__call__, self.model, params)(window, projections)
        candidates_VxD: Any = self.model.apply(variables, projections, method="candidates")
        scores_BxV = h_BxLxD[:, -1] @ candidates_VxD.T
        return TitleScores({"next_item": scores_BxV}, rows["target"][:, 0], rows["history_title"])

    def policy_logits(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return the scores [B, V] over the temperature, the logits that the softmax loss trains."""
        scores = self.score_all_titles(params, host, table).by_head[self.catalogue_heads[0]]
        return scores / self.config.next_item.temperature

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> tuple[jax.Array, jax.Array]:
        """Return the outputs [B, D] of the last positions, and the scored vectors [V, D] of all titles."""
        window, _ = next_item_inputs.queries(host.words, self.layout, self.size)
        variables: Any = {"params": params}
        projections = self.project_titles(params, table)
        h_BxLxD = applied(NextItemModel.__call__, self.model, params)(window, projections)
        candidates_VxD: Any = self.model.apply(variables, projections, method="candidates")
        return h_BxLxD[:, -1], candidates_VxD

    def score_titles(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        h_BxD, candidates_VxD = encoded
        return h_BxD @ candidates_VxD[id_N].T

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        return self.encode_queries(params, host, table)[0]

    def embed_titles(self, params: Any, table: TitleTable) -> jax.Array:
        variables: Any = {"params": params}
        vectors_VxD: Any = self.model.apply(
            variables, self.project_titles(params, table), method="candidates"
        )
        return vectors_VxD

    @property
    def dot_heads(self) -> tuple[str, ...]:
        return self.catalogue_heads

    def dot_users(self, params: Any, encoded: Any, head: str) -> jax.Array:
        return encoded[0]

    def dot_titles(self, params: Any, table: TitleTable, head: str) -> jax.Array:
        return self.embed_titles(params, table)
