"""The interface of a training task: a config and a dataset's layout as pure functions.

`training` steps any task and `evaluation` scores any task through this interface alone. `tasks/ranking.py`
trains on examples with candidates, `tasks/next_item.py` on sequences. A task reads the step's number and its
own state; it never reads the rest of a `TrainState`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.packing import Packer
from jaxrec.tasks.metric_sums import Sums


class TitleScores(NamedTuple):
    """Scores of B queries over all titles."""

    scores_BxV: jax.Array
    target_B: jax.Array  # int32 ids
    seen_BxL: jax.Array  # int32 ids of the stored history, abandoned titles included, 0 for padding


class QueryScores(NamedTuple):
    """Scores of B queries over their frozen lists, and the experts' weights."""

    by_head: dict[str, jax.Array]  # head -> [B, lists, K, 1 + negatives], the target first
    gate_BxE: jax.Array  # without noise; each row adds to 1
    sums: Sums  # of the validation loss; empty where it was not wanted


class Protocols(NamedTuple):
    """How a task's checkpoints are evaluated."""

    lists: tuple[str, ...]  # frozen lists that the task scores; empty where its rows have none
    best: tuple[str, str]  # list and metric by which the best checkpoint is chosen
    temperature: float = 1.0  # divides the scores in the validation loss over all titles


@dataclass(frozen=True)
class Task:
    """A config and a dataset's layout as pure functions.

    Args:
        config: The run's config.
        layout: Shape of the dataset's rows.
        threshold: Mean completion of the training targets, the threshold of Eq. 13.
        steps_per_epoch: Steps in which every training row is read once.
        total_steps: Steps of the whole run.
    """

    rows: ClassVar[str]  # the rows of a dataset that the task trains on: `Layout.examples`

    config: Config
    layout: Layout
    threshold: float
    steps_per_epoch: int
    total_steps: int

    # ------------------------------------------------ set by each task

    def protocols(self) -> Protocols:
        """Return how checkpoints of this task are evaluated."""
        raise NotImplementedError

    def microbatch_limit(self, backend: str) -> int:
        """Return the most examples that a device works through at a time; 0 for all of its batch."""
        raise NotImplementedError

    def projects_once(self, device_batch: int) -> bool:
        """Return whether titles are projected once for `device_batch` examples, or by each microbatch."""
        raise NotImplementedError

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """Return the first parameters; traced."""
        raise NotImplementedError

    def init_task_state(self) -> Any:
        """Return the first state of the task's own that a step carries on; a pytree, () for none."""
        return ()

    def project_titles(self, params: Any, table: TitleTable, context: Any) -> Any:
        """Return the model's projections of titles, computed once for many examples.

        Every title is projected, or those that `context` names.
        """
        raise NotImplementedError

    def device_context(self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable) -> Any:
        """Return what all microbatches of a device read of its whole batch, or of the global batch.

        Called inside a mapped step, so collectives over `AXIS` may be used.
        """
        return None

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the loss summed over the rows of `host`, and each metric's (sum, count).

        Args:
            key: [B, 2] uint32, one key for each row.
            projections: From `project_titles`; None where the model projects titles itself.
            context: From `device_context`.
        """
        raise NotImplementedError

    def update_task_state(
        self, task_state: Any, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[Any, Sums]:
        """Return the task's state after `step`, and `sums` with the task's own figures added.

        Args:
            params: The parameters before the step.
            sums: Metrics of the step, summed over all devices.
        """
        return task_state, sums

    # ------------------------------------------------ scoring

    def packer(self, dtype: np.dtype) -> Packer | None:
        """Return what packs several histories into a row; None where each example has rows of its own."""
        return None

    def cached_projections(self, params: Any, table: TitleTable, queries: int) -> Any:
        """Return projections that serve `queries` queries at a time; None where they would not pay."""
        return None

    def score_lists(
        self, params: Any, projections: Any, host: HostBatch, table: TitleTable, next_k: int,
        heads: tuple[str, ...], with_loss: bool,
    ) -> QueryScores:  # fmt: skip
        """Score the frozen lists of queries by each of `heads`, without noise or dropout."""
        raise NotImplementedError

    def score_all_titles(self, params: Any, host: HostBatch, table: TitleTable) -> TitleScores:
        """Score every title for queries by the head that ranks, without noise or dropout."""
        raise NotImplementedError

    def two_stages(
        self, params: Any, host: HostBatch, table: TitleTable, eligible_BxV: jax.Array, limit: int
    ) -> Any:
        """Score queries by the retrieval head, and rank its best `limit` titles by the head that ranks."""
        raise NotImplementedError

    @property
    def ranking_heads(self) -> tuple[str, ...]:
        """Names of the heads that can order titles; the one that ranks at evaluation comes first."""
        return ()

    # ------------------------------------------------ the same for all tasks

    def microbatches(self, device_batch: int) -> int:
        """Return the number of microbatches of a device's batch.

        It is the least number that divides `device_batch` into microbatches of at most
        `train.microbatch_size` examples.
        """
        limit = (
            self.config.train.microbatch_size or self.microbatch_limit(jax.default_backend()) or device_batch
        )
        return next(n for n in range(-(-device_batch // limit), device_batch + 1) if device_batch % n == 0)

    @property
    def shards_titles(self) -> bool:
        """Whether the titles' embeddings and their optimizer state are sharded by rows over the devices."""
        return self.config.model.item_table_sharding == "split"

    @cached_property
    def abstract_params(self) -> Any:
        """Shapes and dtypes of the parameters, without making them."""
        return jax.eval_shape(self.init_params, jax.random.key(0), self.empty_table())

    def empty_table(self) -> TitleTable:
        """Return a title table of zeros: shapes for the first parameters."""
        titles, columns = self.layout.titles, self.layout.columns
        return TitleTable(
            jnp.zeros((titles, columns("title", "category")), jnp.int32),
            jnp.zeros((titles, columns("title", "number")), jnp.float32),
        )
