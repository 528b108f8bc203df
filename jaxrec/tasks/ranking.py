"""Ranking task: the paper's model and objective on examples with candidates."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrec.config.validation import mix_counts
from jaxrec.core.batch import Batch, HostBatch, TitleTable
from jaxrec.core.ids import UNKNOWN
from jaxrec.data.loading.strata import strata_weights
from jaxrec.losses import ranking, task_weights
from jaxrec.models.features.source_title import source_ids
from jaxrec.models.layers import sharded_embedding
from jaxrec.models.layers.dense import applied, at_least_float32
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.mixture import gate_temperature
from jaxrec.models.ranker import RankingModel
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.heads import with_labels
from jaxrec.tasks.inputs.pool_negatives import choose_negatives
from jaxrec.tasks.outputs import Sums
from jaxrec.tasks.ranking_scorer import RankingScorer

# Examples of a microbatch on a CPU: the intermediate values of more examples do not fit into its caches.
_CPU_MICROBATCH = 256
_ABSENT = -1e9  # score of a candidate that is not there; finite, so that its gradient is 0
_CPU_TARGET_MICROBATCH = 16  # with the target in the sequence: each candidate has its own sequence


class RankingState(NamedTuple):
    """State of the ranking task, updated by each step.

    Attributes:
        averages: `task_weights.LossAverages` if the terms are weighted by loss averages.
        usage: [E] mean gate of the last step, if `objective.balance` is set.
        teacher: Parameters of the run that this one starts from, if `objective.distil` is set.
    """

    averages: Any = ()
    usage: Any = ()
    teacher: Any = ()


@dataclass(frozen=True, eq=False)
class RankingTask(RankingScorer):
    """Objective of Eq. 15 on examples with candidates."""

    rows: ClassVar[str] = "ranking"

    @property
    def weighted_terms(self) -> tuple[str, ...]:
        """Terms of the heads, Eq. 15's first."""
        return tuple(head.term for head in self.head_specs)

    @property
    def fixed_weights(self) -> jax.Array:
        """Weights [T] of `weighted_terms` in the config."""
        weights = [head.weight for head in self.head_specs]
        return jnp.asarray(weights, at_least_float32(self.config.model.dtype))

    def moving_weights(self, params: Any, state: RankingState, step: jax.Array) -> ranking.Moving | None:
        """Return the weights of the terms and the regularizer; None for fixed weights.

        Args:
            params: Parameters, with the log variances for "uncertainty".
            state: Loss averages, for "averaging".
            step: Scalar int32, the number of completed steps.

        Returns:
            Term -> scalar weight, and the scalar that is added to each example's loss.
        """
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
    def pool_mix(self) -> tuple[int, ...]:
        """Number of negatives of each pool per example, in the order of `core.ids.POOLS`."""
        return mix_counts(self.config.sampling.mix, self.config.sampling.negatives)

    def epoch(self, step: jax.Array) -> jax.Array:
        """Return the epoch of a step as an int32 scalar; both count from 0."""
        return step // self.steps_per_epoch

    def rotation(self, step: jax.Array) -> jax.Array:
        """Return the number by which pools rotate at a step, an int32 scalar: its epoch.

        In a chain of datasets it is a hash of the step: the epoch depends on the number of rows, so that each
        day would compile another program.
        """
        if self.layout.has_gaps:
            return (step.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) >> 17).astype(jnp.int32)
        return self.epoch(step)

    def microbatch_limit(self, backend: str) -> int:
        """Return a fixed number of examples on a CPU, else 0; see `Task`."""
        on_cpu = _CPU_MICROBATCH if self.shares_histories else _CPU_TARGET_MICROBATCH
        return on_cpu if backend == "cpu" else 0

    def projects_once(self, device_batch: int) -> bool:
        """Return True if there are fewer titles than candidates in a per-device batch.

        Titles of a sharded table are always projected once.
        """
        return self.shards_titles or self.layout.num_titles < device_batch * (
            self.config.sampling.negatives + self.config.sampling.next_k
        )

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """Return the initial parameters of the model and of learned task weights."""
        batch = jnp.zeros((1, self.layout.row_dtype().itemsize // 4), jnp.uint32)
        rows = ranking_inputs.decode(batch, self.layout.row_dtype())
        candidates = jnp.zeros((1, 1), jnp.int32)
        history = ranking_inputs.history(rows, self.view)
        params = self.model.init(key, history, candidates, table, 1.0)["params"]
        if self.config.objective.weighting == "uncertainty":
            params = params | {task_weights.PARAMETERS: task_weights.init_log_variances(self.fixed_weights)}
        return params

    def init_task_state(self) -> RankingState:
        """Return the state before the first step; a part that is not used is ()."""
        kind, experts = self.config.objective.weighting, len(self.config.model.experts)
        dtype = at_least_float32(self.config.model.dtype)
        return RankingState(
            task_weights.init_averages(len(self.weighted_terms)) if kind == "averaging" else (),
            jnp.full(experts, 1 / experts, dtype) if self.balances else (),
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract_params)
            if self.config.objective.distil
            else (),
        )

    def device_context(
        self, task_state: RankingState, step: jax.Array, host: HostBatch, table: TitleTable
    ) -> jax.Array | None:
        """Return the unique title ids [U] of the per-device batch; None without sharding.

        The arguments are those of `Task.device_context`. NO_ID fills the array.
        """
        if not self.shards_titles:
            return None
        rows = ranking_inputs.decode(host.words, self.layout.row_dtype())
        history = ranking_inputs.history(rows, self.view)
        read, contexts = [history.title], self.layout.of("context")
        read += [history.session.title] if history.session is not None else []
        if any(f.kind == "title" for f in contexts):
            read.append(source_ids(history.context_categories, contexts))
        unknown = jnp.full((1,), UNKNOWN, jnp.int32)  # `sampling.id_dropout` puts this id into histories
        positive, negative = (
            rows["target"][:, : self.config.sampling.next_k],
            choose_negatives(rows, self.pool_mix, self.rotation(step), self.view.matching)[0],
        )
        return sharded_embedding.unique_ids(
            jnp.concatenate([x.reshape(-1) for x in (*read, positive, negative, unknown)])
        )

    def project_titles(self, params: Any, table: TitleTable, context: jax.Array | None) -> Any:
        """Return kernel name -> projections [V, out], or [U, out] of the ids in `context`."""
        projections: Any = self.model.apply({"params": params}, table, context, method="catalogue")
        return projections.projected

    def temperature(self, step: jax.Array) -> jax.Array:
        """Return the temperature of the gate at a step, a scalar; steps count from 0.

        A run that keeps the optimizer of another run goes on with a trained gate, at the final temperature.
        """
        g = self.config.model.gate
        if self.config.start.optimizer == "kept":
            return jnp.float32(g.temperature)
        return gate_temperature(step, self.total_steps, g.start_temperature, g.temperature, g.anneal_fraction)

    def batch_loss(
        self, params: Any, batch: Batch, table: TitleTable, tau: jax.Array | float, key: jax.Array | None,
        catalogue: Any = None, moving: ranking.Moving | None = None, usage: jax.Array | None = None,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the sum of Eq. 15 over valid examples, and each metric's (sum, count).

        Without `moving` and `usage`, the loss has the config's weights and no load-balancing term. The
        validation loss is computed in this way, because the plateau compares it between epochs.

        Args:
            params: Parameters of the model.
            batch: B examples.
            table: Features of all titles.
            tau: Temperature of the gate.
            key: [B, 2] uint32 keys of the examples; None for no noise and no dropout.
            catalogue: Cached projections of the titles; None: computed in each call.
            moving: From `moving_weights`.
            usage: [E] mean gate of the previous step, for `losses.gate.load_balancing_loss`.
        """
        chex.assert_rank([batch.positive, batch.negative], 2, custom_message="batch.positive, batch.negative")
        completion = batch.outcome.completion
        chex.assert_equal_shape(
            [batch.positive, completion], custom_message="batch.outcome.completion [B, K]"
        )
        batch = self._weighted(with_labels(batch, self.head_specs, self.config, self.layout, table))
        candidates = jnp.concatenate([batch.positive, batch.negative], axis=1)
        out = applied(RankingModel.__call__, self.model, params)(
            batch.history, candidates, table, tau, key, batch.positive.shape[1], catalogue
        )
        c = self.config
        return ranking.objective(
            out, batch, c.objective, c.sampling, self.threshold, c.model.gate.target_entropy, moving, usage
        )

    @property
    def compared_heads(self) -> tuple[str, ...]:
        return self.heads

    def head_losses(self, params: Any, host: HostBatch, table: TitleTable) -> tuple[jax.Array, jax.Array]:
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        batch = ranking_inputs.validation(queries, host.valid, self.config.sampling.next_k, self.reads_served)
        _, sums = self.batch_loss(params, batch, table, self.config.model.gate.temperature, None)
        terms = [sums[f"loss_{term}"] for term in self.weighted_terms]
        return jnp.stack([total for total, _ in terms]), terms[0][1]

    def shared_parameters(self, params: Any) -> Any:
        variances = {name: False for name in (task_weights.PARAMETERS,) if name in params}
        of_model = {name: tree for name, tree in params.items() if name not in variances}
        return self.model.shared_parameters(of_model) | variances

    def _weighted(self, batch: Batch) -> Batch:
        """Return a batch with the weights of its examples by strata; unchanged without strata."""
        sampling = self.config.sampling
        if not sampling.strata:
            return batch
        column = self.layout.category_column("user", sampling.strata)
        weights = jnp.asarray(strata_weights(self.strata, sampling.strata_power))
        return batch._replace(weight=weights[batch.history.user_categories[:, column]])

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: RankingState, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the scalar sum of Eq. 15 over valid rows, and each metric's (sum, count).

        The arguments are those of `Task.loss`; `context` holds unique title ids or None.
        """
        chex.assert_shape(host.valid, (len(host.words),), custom_message="host.valid [B]")
        chex.assert_shape(key, (len(host.words), 2), custom_message="key [B, 2]")
        batch = ranking_inputs.training(
            host.words, host.valid, self.view, self.pool_mix, self.config.sampling.next_k,
            self.rotation(step), key, host.packing,
        )  # fmt: skip
        moving = self.moving_weights(params, task_state, step)
        usage = task_state.usage if self.balances else None
        if projections is not None:
            projections = TitleProjections(projections, context)
        tau = self.temperature(step)
        total, sums = self.batch_loss(params, batch, table, tau, key, projections, moving, usage)
        if not self.config.objective.distil:
            return total, sums
        call = applied(RankingModel.__call__, self.model, params)
        candidates = jnp.concatenate([batch.positive, batch.negative], axis=1)
        # The same call as that of the loss: XLA computes the encoder once for both.
        student = call(batch.history, candidates, table, tau, key, batch.positive.shape[1], projections)
        distilled = self._distillation(task_state.teacher, student.scores, batch, candidates, table)
        total, count = total + self.config.objective.distil * distilled, sums["loss"][1]
        return total, sums | {"loss": (total, count), "loss_distil": (distilled, count)}

    def _distillation(
        self,
        teacher: Any,
        student: dict[str, jax.Array],
        batch: Batch,
        candidates: jax.Array,
        table: TitleTable,
    ) -> jax.Array:
        """Return the sum over valid examples of KL(teacher || student) over their candidates, in nats.

        Both are softmaxes of the scores of the head that orders titles.

        Args:
            teacher: Parameters of the run that this one starts from.
            student: Head -> scores [B, C].
            batch: B examples.
            candidates: [B, C] ids, 0 for none.
            table: Features of all titles.
        """
        scores = applied(RankingModel.__call__, self.model, jax.lax.stop_gradient(teacher))(
            batch.history, candidates, table, self.config.model.gate.temperature
        ).scores
        log_p, log_q = (
            jax.nn.log_softmax(jnp.where(candidates > 0, s[self.default_head], _ABSENT), axis=1)
            for s in (scores, student)
        )
        divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(1)
        return jnp.where(batch.valid, divergence, 0.0).sum()

    def update_task_state(
        self, task_state: RankingState, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[RankingState, Sums]:
        """Update the loss averages and the mean gate; add the temperature and the weights.

        Arguments and result are those of `Task.update_task_state`.
        """
        one = jnp.float32(1)
        sums = sums | {"temperature": (self.temperature(step), one)}
        moving, (averages, usage, teacher) = self.moving_weights(params, task_state, step), task_state
        if moving is not None:
            sums |= {f"weight_{term}": (weight, one) for term, weight in moving[0].items()}
        if averages:
            total = jnp.stack([sums[f"loss_{term}"][0] for term in self.weighted_terms])
            epoch_ends = (step + 1) % self.steps_per_epoch == 0
            averages = task_weights.update_averages(averages, total, sums["loss"][1], epoch_ends)
        if self.balances:
            gates = [sums[f"gate_{e}"] for e in range(len(usage))]
            usage = jnp.stack([total / jnp.maximum(count, 1) for total, count in gates]).astype(usage.dtype)
        return RankingState(averages, usage, teacher), sums
