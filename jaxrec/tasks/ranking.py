"""Ranking task: the paper's model and objective on examples with candidates."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.validation import mix_counts
from jaxrec.core.batch import Batch, History, HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import LISTS, RETRIEVAL_HEAD, UNKNOWN
from jaxrec.data.loading.packing import Packer
from jaxrec.losses import ranking, task_weights
from jaxrec.models.cached_scoring import score_in_groups
from jaxrec.models.layers import sharded_embedding
from jaxrec.models.layers.dense import at_least_float32
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.mixture import gate_temperature
from jaxrec.models.ranker import RankingModel
from jaxrec.models.two_stage import TwoStageResult, two_stage
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.base import Protocols, QueryScores, Task, TitleScores
from jaxrec.tasks.metric_sums import Sums

# Examples of a microbatch on a CPU: the intermediate values of more examples do not fit into its caches.
_CPU_MICROBATCH = 256
_CPU_TARGET_MICROBATCH = 16  # with the target in the sequence: each candidate has its own sequence


class RankingState(NamedTuple):
    """State of the ranking task, updated by each step."""

    averages: Any = ()  # `task_weights.LossAverages` if the terms are weighted by loss averages
    usage: Any = ()  # [E] mean gate of the last step, if `objective.balance` is set


@dataclass(frozen=True, eq=False)
class RankingTask(Task):
    """Objective of Eq. 15 on examples with candidates."""

    rows: ClassVar[str] = "requests"

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Heads that the objective trains, a subset of `models.ranker.HEAD_NAMES`."""
        o = self.config.objective
        weights = {"ctr": o.ctr, "ranking": o.ranking, "completion": o.regression}
        return tuple(head for head, weight in weights.items() if weight > 0)

    @property
    def weighted_terms(self) -> tuple[str, ...]:
        """Terms of Eq. 15 with a positive weight in the objective."""
        return tuple(term for term in ranking.TASKS if getattr(self.config.objective, term) > 0)

    @property
    def fixed_weights(self) -> jax.Array:
        """Weights [T] of `weighted_terms` in the config."""
        weights = [getattr(self.config.objective, term) for term in self.weighted_terms]
        return jnp.asarray(weights, at_least_float32(self.config.model.dtype))

    def moving_weights(self, params: Any, state: RankingState, step: jax.Array) -> ranking.Moving | None:
        """Return the weights of the terms and the regularizer; None for fixed weights."""
        kind, regularizer = self.config.objective.weighting, jnp.float32(0)
        if kind == "fixed":
            return None
        if kind == "uncertainty":
            weights, regularizer = task_weights.uncertainty_weights(params[task_weights.PARAMETERS])
        else:
            weights = task_weights.averaged_weights(state.averages, self.epoch(step), self.fixed_weights)
        return dict(zip(self.weighted_terms, weights, strict=True)), regularizer

    @property
    def balances(self) -> bool:
        """True if the load-balancing term is part of the loss."""
        return self.config.objective.balance > 0 and len(self.config.model.experts) > 1

    @cached_property
    def model(self) -> RankingModel:
        m = self.config.model
        return RankingModel(
            m.dtype,
            self.layout.features,
            self.layout.titles,
            m,
            self.heads,
            self.config.objective.retrieval_negatives,
            AXIS if self.shards_titles else "",
        )

    @cached_property
    def view(self) -> ranking_inputs.HistoryView:
        """Settings that select the titles of a history."""
        s = self.config.sampling
        return ranking_inputs.HistoryView(self.layout, self.windows, s.history_keeps_abandoned, s.id_dropout)

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Unique numbers of titles that experts read, in decreasing order."""
        return tuple(sorted({e.max_len for e in self.config.model.experts}, reverse=True))

    @cached_property
    def mix(self) -> tuple[int, int, int, int]:
        """Number of negatives of each pool per example, in the order of `core.ids.POOLS`."""
        return mix_counts(self.config.sampling.mix, self.config.sampling.negatives)

    def epoch(self, step: jax.Array) -> jax.Array:
        """Return the epoch of a step, from 0."""
        return step // self.steps_per_epoch

    def protocols(self) -> Protocols:
        return Protocols(LISTS, best=("enabled", "ndcg@1"))

    @property
    def shares_histories(self) -> bool:
        """True if one encoding of a history serves all candidates.

        Packing of histories requires this.
        """
        return not self.config.model.target_in_sequence

    def microbatch_limit(self, backend: str) -> int:
        on_cpu = _CPU_MICROBATCH if self.shares_histories else _CPU_TARGET_MICROBATCH
        return on_cpu if backend == "cpu" else 0

    def projects_once(self, device_batch: int) -> bool:
        """Return True if there are fewer titles than candidates in a per-device batch.

        Titles of a sharded table are always projected once.
        """
        return self.shards_titles or self.layout.titles < device_batch * (
            self.config.sampling.negatives + self.config.sampling.next_k
        )

    @cached_property
    def score_task(self) -> str:
        """Head that orders the titles at evaluation."""
        score = self.config.evaluate.ranking_head
        return score if score != "auto" else "ranking" if "ranking" in self.heads else "ctr"

    @property
    def ranking_heads(self) -> tuple[str, ...]:
        remaining = tuple(h for h in ("ctr", "ranking") if h in self.heads and h != self.score_task)
        return (self.score_task, *remaining)

    def packer(self, dtype: np.dtype) -> Packer | None:
        if not self.shares_histories:
            return None
        return Packer(dtype, self.windows, self.config.sampling.history_keeps_abandoned)

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        batch = jnp.zeros((1, self.layout.row_dtype().itemsize // 4), jnp.uint32)
        rows = ranking_inputs.decode(batch, self.layout.row_dtype())
        candidates = jnp.zeros((1, 1), jnp.int32)
        history = ranking_inputs.history(rows, self.view)
        params = self.model.init(key, history, candidates, table, 1.0)["params"]
        if self.config.objective.weighting == "uncertainty":
            params = params | {task_weights.PARAMETERS: task_weights.init_log_variances(self.fixed_weights)}
        return params

    def init_task_state(self) -> RankingState:
        kind, experts = self.config.objective.weighting, len(self.config.model.experts)
        dtype = at_least_float32(self.config.model.dtype)
        return RankingState(
            task_weights.init_averages(len(self.weighted_terms)) if kind == "averaging" else (),
            jnp.full(experts, 1 / experts, dtype) if self.balances else (),
        )

    def device_context(
        self, task_state: RankingState, step: jax.Array, host: HostBatch, table: TitleTable
    ) -> jax.Array | None:
        """Return the unique title ids of the per-device batch; None without sharding."""
        if not self.shards_titles:
            return None
        rows = ranking_inputs.decode(host.words, self.layout.row_dtype())
        history = ranking_inputs.history(rows, self.view).title
        unknown = jnp.full((1,), UNKNOWN, jnp.int32)  # `sampling.id_dropout` puts this id into histories
        positive, negative = (
            rows["target"][:, : self.config.sampling.next_k],
            ranking_inputs.choose_negatives(rows, self.mix, self.epoch(step))[0],
        )
        return sharded_embedding.unique_ids(
            jnp.concatenate([x.reshape(-1) for x in (history, positive, negative, unknown)])
        )

    def project_titles(self, params: Any, table: TitleTable, context: jax.Array | None) -> Any:
        projections: Any = self.model.apply({"params": params}, table, context, method="catalogue")
        return projections.projected

    def temperature(self, step: jax.Array) -> jax.Array:
        """Return the temperature of the gate at a step."""
        g = self.config.model.gate
        return gate_temperature(step, self.total_steps, g.start_temperature, g.temperature, g.anneal_fraction)

    def batch_loss(
        self, params: Any, batch: Batch, table: TitleTable, tau: jax.Array | float, key: jax.Array | None,
        catalogue: Any = None, moving: ranking.Moving | None = None, usage: jax.Array | None = None,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the sum of Eq. 15 over valid examples, and each metric's (sum, count).

        Without `moving` and `usage`, the loss has the config's weights and no load-balancing term. The
        validation loss is computed in this way, because the plateau compares it between epochs.

        Args:
            tau: Temperature of the gate.
            key: [B, 2] uint32 keys of the examples; None for no noise and no dropout.
            catalogue: Cached projections of the titles; None: computed in each call.
            moving: From `moving_weights`.
            usage: [E] mean gate of the previous step, for `losses.ranking.load_balancing_loss`.
        """
        chex.assert_rank([batch.positive, batch.negative], 2, custom_message="batch.positive, batch.negative")
        chex.assert_equal_shape([batch.positive, batch.completion], custom_message="batch.completion [B, K]")
        candidates = jnp.concatenate([batch.positive, batch.negative], axis=1)
        out: Any = self.model.apply(
            {"params": params}, batch.history, candidates, table, tau, key, batch.positive.shape[1], catalogue
        )
        c = self.config
        return ranking.objective(
            out, batch, c.objective, c.sampling, self.threshold, c.model.gate.target_entropy, moving, usage
        )

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: RankingState, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        chex.assert_shape(host.valid, (len(host.words),), custom_message="host.valid [B]")
        chex.assert_shape(key, (len(host.words), 2), custom_message="key [B, 2]")
        batch = ranking_inputs.training(
            host.words, host.valid, self.view, self.mix, self.config.sampling.next_k, self.epoch(step), key,
            host.packing,
        )  # fmt: skip
        moving = self.moving_weights(params, task_state, step)
        usage = task_state.usage if self.balances else None
        if projections is not None:
            projections = TitleProjections(projections, context)
        return self.batch_loss(params, batch, table, self.temperature(step), key, projections, moving, usage)

    def cached_projections(self, params: Any, table: TitleTable, queries: int) -> Any:
        """Return projections of all titles, or None if they save no time.

        They save time if the queries look up more titles than there are.

        For a sharded table the result is None: each title is looked up on the device that stores it.
        """
        if self.shards_titles or self.layout.titles >= queries * self.layout.negatives:
            return None
        return self.model.apply({"params": params}, table, method="catalogue")

    def score_lists(
        self, params: Any, projections: Any, host: HostBatch, table: TitleTable, next_k: int,
        heads: tuple[str, ...], with_loss: bool,
    ) -> QueryScores:  # fmt: skip
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        candidates = queries.candidate[:, :, :next_k]
        scores, gate = self._score_candidates(params, projections, queries.history, candidates, table, heads)
        sums: Sums = {}
        if with_loss:
            batch = ranking_inputs.validation(queries, host.valid, self.config.sampling.next_k)
            tau = self.config.model.gate.temperature
            sums = self.batch_loss(params, batch, table, tau, None, projections)[1]
        return QueryScores(scores, gate, sums)

    def _score_candidates(
        self, params: Any, projections: Any, history: History, candidates: jax.Array, table: TitleTable,
        heads: tuple[str, ...],
    ) -> tuple[dict[str, jax.Array], jax.Array]:  # fmt: skip
        """Return the scores of candidates by head, and the gate [B, E].

        Scores have the shape of `candidates`, [B, lists, K, 1 + negatives].

        With the target in the sequence each candidate has its own gate, and the returned gate is the mean
        over the candidates that are present.
        """
        tau, variables = self.config.model.gate.temperature, {"params": params}
        ids_BxC = candidates.reshape(len(candidates), -1)
        if self.shares_histories:
            apply: Any = self.model.apply
            user = apply(variables, history, table, tau, None, projections, method="encode")
            scores = apply(variables, user, ids_BxC, table, heads, projections, method="score")
            gate = user.clean_gate_BxE
        else:
            # One list per group: each candidate has its own sequence, and all groups would not fit in memory.
            scores, gates_BxCxE = score_in_groups(
                self.model, variables, history, ids_BxC, table, tau, heads, candidates.shape[-1], projections
            )
            present = (ids_BxC > 0)[..., None]
            gate = jnp.where(present, gates_BxCxE, 0.0).sum(1) / jnp.maximum(present.sum(1), 1)
        return jax.tree.map(lambda x: x.reshape(candidates.shape), scores), gate

    def score_all_titles(self, params: Any, host: HostBatch, table: TitleTable) -> TitleScores:
        variables, tau = {"params": params}, self.config.model.gate.temperature
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        user = self.model.apply(variables, queries.history, table, tau, method="encode")
        scores_BxV: Any = self.model.apply(variables, user, table, self.score_task, method="score_catalogue")
        return TitleScores(scores_BxV, queries.rows["target"][:, 0], queries.rows["history_title"])

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> Any:
        apply: Any = self.model.apply
        variables = {"params": params}
        history = ranking_inputs.queries(host.words, self.view, host.packing).history
        if not self.shares_histories:
            return apply(variables, history, table, method="encode_history")
        return apply(variables, history, table, self.config.model.gate.temperature, method="encode")

    def score_titles(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        if self.shares_histories:
            apply: Any = self.model.apply
            if head == RETRIEVAL_HEAD:
                return apply({"params": params}, encoded, table, None, id_N, method="retrieve")
            return apply({"params": params}, encoded, table, head, id_N, method="score_catalogue")
        id_BxN = jnp.broadcast_to(id_N, (len(encoded.customer_BxF), len(id_N)))
        return self._score_encoded(params, encoded, table, head, id_BxN)

    def predict_completion(
        self, params: Any, encoded: Any, table: TitleTable, id_BxC: jax.Array
    ) -> jax.Array | None:
        if "completion" not in self.heads:
            return None
        return self._score_encoded(params, encoded, table, "completion", id_BxC)

    def _score_encoded(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_BxC: jax.Array
    ) -> jax.Array:
        """Return the scores [B, C] of candidates by a head, for the result of `encode_queries`."""
        apply: Any = self.model.apply
        variables, tau = {"params": params}, self.config.model.gate.temperature
        if not self.shares_histories:
            encoded = apply(variables, encoded, id_BxC, table, tau, method="join")
        return apply(variables, encoded, id_BxC, table, (head,), method="score")[head]

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        if not self.shares_histories:
            raise InputError("model.target_in_sequence=true: a user has no vector without a candidate")
        return self.encode_queries(params, host, table).vector_BxF

    def embed_titles(self, params: Any, table: TitleTable) -> jax.Array:
        apply: Any = self.model.apply
        return apply({"params": params}, table, method="title_vectors")

    def two_stages(
        self, params: Any, host: HostBatch, table: TitleTable, eligible_BxV: jax.Array, limit: int
    ) -> tuple[jax.Array, TwoStageResult]:
        """Return the retrieval scores [B, V], and the titles recommended by `two_stage`.

        Args:
            eligible_BxV: Bool, the titles that may be retrieved.
            limit: Maximum number of retrieved titles.
        """
        variables, tau = {"params": params}, self.config.model.gate.temperature
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        user: Any = self.model.apply(variables, queries.history, table, tau, method="encode")
        scores_BxV: Any = self.model.apply(variables, user, table, method="retrieve")
        return scores_BxV, two_stage(self.model, variables, user, table, self.score_task, eligible_BxV, limit)

    def update_task_state(
        self, task_state: RankingState, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[RankingState, Sums]:
        one = jnp.float32(1)
        sums = sums | {"temperature": (self.temperature(step), one)}
        moving, (averages, usage) = self.moving_weights(params, task_state, step), task_state
        if moving is not None:
            sums |= {f"weight_{term}": (weight, one) for term, weight in moving[0].items()}
        if averages:
            total = jnp.stack([sums[f"loss_{term}"][0] for term in self.weighted_terms])
            epoch_ends = (step + 1) % self.steps_per_epoch == 0
            averages = task_weights.update_averages(averages, total, sums["loss"][1], epoch_ends)
        if self.balances:
            gates = [sums[f"gate_{e}"] for e in range(len(usage))]
            usage = jnp.stack([total / jnp.maximum(count, 1) for total, count in gates]).astype(usage.dtype)
        return RankingState(averages, usage), sums
