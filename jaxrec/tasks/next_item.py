"""Training on sequences: a causal model that says the next title, among all, at every place."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.ids import CATALOGUE
from jaxrec.losses import next_item
from jaxrec.losses.ranking import engagement_weight
from jaxrec.models.next_item import ItemWindow, NextItemModel
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import negative_sampling, next_item_inputs
from jaxrec.tasks.base import Protocols, Task, TitleScores
from jaxrec.tasks.metric_sums import Sums

# Places that a CPU works through at a time: what they leave has to stay near its caches.
_CPU_POSITIONS = 4096
_LONG_SHARE = 4  # one in so many windows of a part may be long before all are worked out as such


@dataclass(frozen=True)
class NextItemTask(Task):
    """The objective `config.next_item` on windows of sequences.

    A step's figure is the mean over the places that have a next title, each weighed by Eq. 13 where the
    objective is personalised.
    """

    rows: ClassVar[str] = "sequences"

    @property
    def size(self) -> int:
        """Places of a window."""
        return self.config.model.experts[0].max_len

    @cached_property
    def model(self) -> NextItemModel:
        m = self.config.model
        return NextItemModel(m.dtype, self.layout.features, self.layout.titles, m)

    def protocols(self) -> Protocols:
        return Protocols((), (CATALOGUE, "ndcg@10"), self.config.next_item.temperature)

    def microbatch_limit(self, backend: str) -> int:
        return max(_CPU_POSITIONS // self.size, 1) if backend == "cpu" else 0

    def projects_once(self, device_batch: int) -> bool:
        return True

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        nothing = jnp.zeros((1, self.size), jnp.int32)
        window = ItemWindow(nothing, nothing.astype(jnp.uint32), nothing.astype(jnp.uint32))
        return self.model.init(key, window, table, method="of_table")["params"]

    def project_titles(self, params: Any, table: TitleTable, context: Any = None) -> Any:
        return self.model.apply({"params": params}, table, method="catalogue")

    def device_context(
        self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable
    ) -> negative_sampling.NegativePool:
        """Return the pool of negatives: for "in_batch" the targets of the global batch, in its order."""
        if self.config.next_item.negative_distribution != "in_batch":
            return negative_sampling.NegativePool(self.layout.titles)
        size = len(host.valid)
        count = self.microbatches(size)
        key = jnp.zeros((size, 2), jnp.uint32)
        aimed = next_item_inputs.training(host.words, self.layout, self.size, False, 0.0, key)
        ids_PxSxL = jnp.where(host.valid[:, None], aimed.target, 0).reshape(count, size // count, self.size)
        ids_DxPxSxL = jax.lax.all_gather(ids_PxSxL, AXIS)
        # A batch goes round robin to all devices' microbatches: `parallel_step.example_rows`.
        return negative_sampling.NegativePool(
            self.layout.titles, ids=jnp.moveaxis(ids_DxPxSxL, 2, 0).reshape(-1)
        )

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: negative_sampling.NegativePool,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        chex.assert_shape(host.valid, (len(host.words),), custom_message="host.valid [B]")
        chex.assert_shape(key, (len(host.words), 2), custom_message="key [B, 2]")
        sampling = self.config.sampling
        random, alpha = sampling.window == "random", sampling.stochastic_length
        aimed = next_item_inputs.training(
            host.words, self.layout, self.size, random, sampling.id_dropout, key
        )
        aimed = aimed._replace(target=jnp.where(host.valid[:, None], aimed.target, 0))
        given = params, self.project_titles(params, table) if projections is None else projections, context
        if not alpha:
            return self._loss(*given, aimed, key)
        aimed, long_B = next_item_inputs.stochastic_length(aimed, alpha, key)
        kept, most = next_item_inputs.kept_positions(self.size, alpha), -(-len(long_B) // _LONG_SHARE)

        def apart() -> tuple[jax.Array, Sums]:
            """The long windows, which have room for `most`, and all others at the places that are kept."""
            first = jnp.argsort(~long_B, stable=True)[:most]
            longs = jax.tree.map(lambda x: x[first], aimed)
            longs = longs._replace(target=jnp.where(long_B[first, None], longs.target, 0))
            others = jax.tree.map(lambda x: x[:, -kept:], aimed)
            others = others._replace(target=jnp.where(long_B[:, None], 0, others.target))
            return jax.tree.map(
                jnp.add, self._loss(*given, longs, key[first]), self._loss(*given, others, key)
            )

        return jax.lax.cond(long_B.sum() <= most, apart, lambda: self._loss(*given, aimed, key))

    def _loss(
        self,
        params: Any,
        catalogue: Any,
        shared: negative_sampling.NegativePool,
        aimed: next_item_inputs.TargetWindows,
        key: jax.Array,
    ) -> tuple[jax.Array, Sums]:
        """Of windows of any number of places, with the keys of their rows."""
        objective, variables, places = self.config.next_item, {"params": params}, aimed.target.shape[1]
        h_BxLxD: Any = self.model.apply(variables, aimed.window, catalogue, key)
        candidates_VxD: Any = self.model.apply(variables, catalogue, method="candidates")
        negatives, log_q = None, None
        if objective.loss != "softmax":
            given = (
                objective.negative_distribution,
                objective.negatives_shared_by,
                places,
                objective.negatives,
            )
            negatives = negative_sampling.draw(key, *given, shared)
            if objective.negatives_shared_by == "place":
                negatives = negatives[:, ::-1]  # a place's are those of how new it is, however many there are
            log_q = (
                negative_sampling.log_q(objective.negative_distribution, shared)
                if objective.logq_correction
                else None
            )
        loss_BxL = next_item.next_item_loss(
            next_item.Positions(h_BxLxD, candidates_VxD, aimed.target, negatives, log_q), objective
        )
        if objective.personalised:
            loss_BxL = loss_BxL * engagement_weight(aimed.completion, objective.alpha, self.threshold)
        total, count = jnp.where(aimed.target > 0, loss_BxL, 0.0).sum(), (aimed.target > 0).sum()
        return total, {"loss": (total, count)}

    def score_all_titles(self, params: Any, host: HostBatch, table: TitleTable) -> TitleScores:
        window, rows = next_item_inputs.queries(host.words, self.layout, self.size)
        variables: Any = {"params": params}
        catalogue = self.project_titles(params, table)
        h_BxLxD: Any = self.model.apply(variables, window, catalogue)
        candidates_VxD: Any = self.model.apply(variables, catalogue, method="candidates")
        scores_BxV = h_BxLxD[:, -1] @ candidates_VxD.T
        return TitleScores(scores_BxV, rows["target"][:, 0], rows["history_title"])
