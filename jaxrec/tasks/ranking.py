"""Training on requests: the paper's model and objective, each example with its candidates."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.config.validation import mix_counts
from jaxrec.core.batch import Batch, HostBatch, TitleTable
from jaxrec.core.ids import UNKNOWN
from jaxrec.losses import ranking, task_weights
from jaxrec.models.layers import sharded_embedding
from jaxrec.models.layers.dense import at_least_float32
from jaxrec.models.layers.title_encoder import TitleProjections
from jaxrec.models.mixture import GateFields, gate_temperature
from jaxrec.models.ranker import RankingModel
from jaxrec.models.two_stage import TwoStageResult, two_stage
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.base import Sums, Task, TitleScores, TrainState

_CPU_PART = 256  # examples at a time on a CPU: what they leave behind has to stay near its caches
_CPU_TARGET_PART = 16  # where every candidate has a sequence of its own


@dataclass(frozen=True)
class RankingTask(Task):
    """The objective of Eq. 15 on requests, each with its candidates."""

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        o = self.config.objective
        weights = {"ctr": o.ctr, "ranking": o.ranking, "completion": o.regression}
        return tuple(task for task, weight in weights.items() if weight > 0)

    @property
    def weighed(self) -> tuple[str, ...]:
        """The terms of Eq. 15 that the objective weighs against one another."""
        return tuple(task for task in ranking.TASKS if getattr(self.config.objective, task) > 0)

    @property
    def fixed_weights(self) -> jax.Array:
        """[T], of `weighed`."""
        weights = [getattr(self.config.objective, task) for task in self.weighed]
        return jnp.asarray(weights, at_least_float32(self.config.model.dtype))

    def moving_weights(self, params: Any, state: TrainState) -> ranking.Moving | None:
        """The weights of `weighed` in training, and what joins the loss; None where they stay fixed."""
        moves, joins = self.config.objective.weighting, jnp.float32(0)
        if moves == "fixed":
            return None
        if moves == "uncertainty":
            weights, joins = task_weights.uncertainty_weights(params[task_weights.PARAMETERS])
        else:
            weights = task_weights.averaged_weights(state.averages, self.epoch(state), self.fixed_weights)
        return dict(zip(self.weighed, weights, strict=True)), joins

    @property
    def balances(self) -> bool:
        return self.config.objective.balance > 0 and len(self.config.model.experts) > 1

    @cached_property
    def model(self) -> RankingModel:
        m = self.config.model
        return RankingModel(
            dtype=m.dtype,
            features=self.layout.features,
            titles=self.layout.titles,
            width=m.width,
            experts=self.encoders,
            gate=GateFields(m.gate.hidden, m.gate.noise),
            dropout=m.dropout,
            matcher=m.matcher,
            matcher_product=m.matcher_product,
            tasks=self.tasks,
            head=m.head,
            reads=m.reads,
            embedding_spread=m.embedding_spread,
            position=m.position,
            remat=m.remat,
            target_in_sequence=m.target_in_sequence,
            retrieval=m.retrieval,
            retrieval_negatives=self.config.objective.retrieval_negatives,
            split=AXIS if self.splits else "",
        )

    @cached_property
    def view(self) -> ranking_inputs.HistoryView:
        s = self.config.sampling
        return ranking_inputs.HistoryView(
            self.layout, self.windows, s.history_keeps_abandoned, s.unknown_rate
        )

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """How many titles experts read, each once, the longest first."""
        return tuple(sorted({e.window for e in self.config.model.experts}, reverse=True))

    @cached_property
    def mix(self) -> tuple[int, int, int, int]:
        """How many negatives of each pool an example has."""
        return mix_counts(self.config.sampling.mix, self.config.sampling.negatives)

    def epoch(self, state: TrainState) -> jax.Array:
        return state.step // self.steps_per_epoch

    @property
    def packs_sequences(self) -> bool:
        """Whether histories may share rows; where candidates join them, a request has rows of its own."""
        return not self.config.model.target_in_sequence

    def part_size(self, backend: str) -> int:
        on_cpu = _CPU_PART if self.packs_sequences else _CPU_TARGET_PART
        return on_cpu if backend == "cpu" else 0

    def projects_once(self, share: int) -> bool:
        """Whether the catalogue has fewer titles than a share's parts look up together; of a split table
        those that they look up are worked out once, however many they are."""
        return self.splits or self.layout.titles < share * (
            self.config.sampling.negatives + self.config.sampling.next_k
        )

    @cached_property
    def score_task(self) -> str:
        """The head that ranks at evaluation."""
        wanted = self.config.evaluate.score
        return wanted if wanted != "auto" else "ranking" if "ranking" in self.tasks else "ctr"

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        batch = jnp.zeros((1, self.layout.row_dtype().itemsize // 4), jnp.uint32)
        rows = ranking_inputs.decode(batch, self.layout.row_dtype())
        candidates = jnp.zeros((1, 1), jnp.int32)
        request = ranking_inputs.history(rows, self.view)
        params = self.model.init(key, request, candidates, table, 1.0)["params"]
        if self.config.objective.weighting == "uncertainty":
            params = params | {task_weights.PARAMETERS: task_weights.init_log_variances(self.fixed_weights)}
        return params

    def init_task_state(self) -> dict[str, Any]:
        moves, experts = self.config.objective.weighting, len(self.config.model.experts)
        dtype = at_least_float32(self.config.model.dtype)
        return {
            "averages": task_weights.init_averages(len(self.weighed)) if moves == "averaging" else (),
            "usage": jnp.full(experts, 1 / experts, dtype) if self.balances else (),
        }

    def shared(self, state: TrainState, host: HostBatch, table: TitleTable) -> jax.Array | None:
        """Where the table is split, the titles that the device's share shows, each once: `dealt.distinct`."""
        if not self.splits:
            return None
        rows = ranking_inputs.decode(host.words, self.layout.row_dtype())
        shown = ranking_inputs.history(rows, self.view).title
        others = jnp.full((1,), UNKNOWN, jnp.int32)  # what `sampling.unknown_rate` hides a title behind
        positive, negative = (
            rows["target"][:, : self.config.sampling.next_k],
            ranking_inputs.choose_negatives(rows, self.mix, self.epoch(state))[0],
        )
        return sharded_embedding.unique_ids(
            jnp.concatenate([x.reshape(-1) for x in (shown, positive, negative, others)])
        )

    def catalogue(self, params: Any, table: TitleTable, shared: jax.Array | None) -> Any:
        found: Any = self.model.apply({"params": params}, table, shared, method="catalogue")
        return found.projected

    def temperature(self, step: jax.Array) -> jax.Array:
        g = self.config.model.gate
        return gate_temperature(step, self.total_steps, g.start_temperature, g.temperature, g.anneal)

    def loss(
        self, params: Any, batch: Batch, table: TitleTable, tau: jax.Array | float, key: jax.Array | None,
        catalogue: Any = None, moving: ranking.Moving | None = None, usage: jax.Array | None = None,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """The sum over valid examples of Eq. 15, and each metric's (sum, count). `catalogue` is the model's,
        where it was worked out before; `moving` is of `moving_weights`, `usage` of `losses.evenness`.
        Without, weights are the config's and nothing is balanced: so is the loss of validation, which the
        plateau compares between epochs."""
        candidates = jnp.concatenate([batch.positive, batch.negative], axis=1)
        out: Any = self.model.apply(
            {"params": params}, batch.history, candidates, table, tau, key, batch.positive.shape[1], catalogue
        )
        c = self.config
        return ranking.objective(
            out, batch, c.objective, c.sampling, self.threshold, c.model.gate.target_entropy, moving, usage
        )

    def summed_loss(
        self, params: Any, catalogue: Any, state: TrainState, host: HostBatch, table: TitleTable,
        key: jax.Array, shared: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        batch = ranking_inputs.training(
            host.words, host.valid, self.view, self.mix, self.config.sampling.next_k, self.epoch(state), key,
            host.packing,
        )  # fmt: skip
        moving, usage = self.moving_weights(params, state), state.usage if self.balances else None
        if catalogue is not None:
            catalogue = TitleProjections(catalogue, shared)
        return self.loss(params, batch, table, self.temperature(state.step), key, catalogue, moving, usage)

    def score_all_titles(self, params: Any, host: HostBatch, table: TitleTable) -> TitleScores:
        variables, tau = {"params": params}, self.config.model.gate.temperature
        found = ranking_inputs.queries(host.words, self.view, host.packing)
        user = self.model.apply(variables, found.history, table, tau, method="encode")
        scores_BxV: Any = self.model.apply(variables, user, table, self.score_task, method="score_catalogue")
        return TitleScores(scores_BxV, found.rows["target"][:, 0], found.rows["history_title"])

    def two_stages(
        self, params: Any, host: HostBatch, table: TitleTable, stands_BxV: jax.Array, most: int
    ) -> tuple[jax.Array, TwoStageResult]:
        """Scores [B, V] of the retrieval head for queries, and what these are shown in two stages, of the
        titles that stand for election: see `two_stage`."""
        variables, tau = {"params": params}, self.config.model.gate.temperature
        found = ranking_inputs.queries(host.words, self.view, host.packing)
        user: Any = self.model.apply(variables, found.history, table, tau, method="encode")
        by_head: Any = self.model.apply(variables, user, table, method="retrieve")
        return by_head, two_stage(self.model, variables, user, table, self.score_task, stands_BxV, most)

    def update_task_state(self, before: TrainState, after: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
        one = jnp.float32(1)
        sums = sums | {"temperature": (self.temperature(before.step), one)}
        moving, averages, usage = self.moving_weights(before.params, before), before.averages, before.usage
        if moving is not None:
            sums |= {f"weight_{task}": (weight, one) for task, weight in moving[0].items()}
        if averages:
            total = jnp.stack([sums[f"loss_{task}"][0] for task in self.weighed])
            ends = (before.step + 1) % self.steps_per_epoch == 0
            averages = task_weights.update_averages(averages, total, sums["loss"][1], ends)
        if self.balances:
            of_gate = [sums[f"gate_{e}"] for e in range(len(usage))]
            usage = jnp.stack([total / jnp.maximum(count, 1) for total, count in of_gate]).astype(usage.dtype)
        return after._replace(averages=averages, usage=usage), sums
