"""Interface of a training task: a config and a dataset's layout as pure functions.

`training` steps any task and `evaluation` scores any task through this interface alone. `tasks/ranking.py`
trains on examples with candidates, `tasks/next_item.py` on sequences. A task reads the step number and its
own state, and no other field of a `TrainState`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import Config, Post
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.packing import Packer
from jaxrec.data.storage.arrays import Arrays
from jaxrec.models.outputs import Correction
from jaxrec.models.two_stage import TwoStageResult
from jaxrec.tasks.inputs.state_terms import StateScores
from jaxrec.tasks.inputs.title_tables import empty_table, title_table
from jaxrec.tasks.outputs import KeptParameters, PolicyInputs, Protocols, QueryScores, Sums, TitleScores


@dataclass(frozen=True, eq=False)  # hashed by identity: `jax.pmap` hashes its function
class Task:
    """A config and a dataset's layout as pure functions.

    Args:
        config: The run's config.
        layout: Shape of the dataset's rows.
        threshold: Mean completion of the training targets, the threshold of Eq. 13.
        steps_per_epoch: Number of steps that read every training row once.
        total_steps: Number of steps of the whole run.
        label_shares: Label -> share of the training targets where it is known.
        strata: Training rows by id of the feature `sampling.strata`; empty without strata.
        categories: Feature -> its values, in the order of their ids.
    """

    rows: ClassVar[str]  # kind of dataset rows that the task trains on: a value of `Layout.rows`

    config: Config
    layout: Layout
    threshold: float
    steps_per_epoch: int
    total_steps: int
    label_shares: Mapping[str, float] = field(default_factory=dict)
    strata: tuple[int, ...] = ()
    categories: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InputError if the rows of the layout lack something that the config needs."""

    # ------------------------------------------------ set by each task

    def protocols(self) -> Protocols:
        """Return the evaluation protocols of this task's checkpoints."""
        raise NotImplementedError

    def microbatch_limit(self, backend: str) -> int:
        """Return the largest microbatch in examples; 0 for the whole per-device batch.

        Args:
            backend: Name of jax's backend, such as "cpu".
        """
        raise NotImplementedError

    def projects_once(self, device_batch: int) -> bool:
        """Return True if titles are projected once per step, False if by each microbatch.

        Args:
            device_batch: Number of examples of a per-device batch.
        """
        raise NotImplementedError

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """Return the initial parameters of a key of `jax.random`; called under a JAX trace."""
        raise NotImplementedError

    def init_task_state(self) -> Any:
        """Return the initial task state, a pytree that each step updates; () for none."""
        return ()

    def project_titles(self, params: Any, table: TitleTable, context: Any) -> Any:
        """Return the model's projections of titles, computed once for many examples.

        Args:
            params: Parameters of the model.
            table: Features of all titles.
            context: From `device_context`. All titles are projected, or only the titles of `context` if the
                task restricts them.
        """
        raise NotImplementedError

    def device_context(self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable) -> Any:
        """Return data of the whole batch, per-device or global, that every microbatch of a device needs.

        Called inside a mapped step, so collectives over `AXIS` may be used.

        Args:
            task_state: State before the step.
            step: Scalar int32, the number of completed steps.
            host: The per-device batch, [B, words] packed rows.
            table: Features of all titles.
        """
        return None

    @property
    def kept_parameters(self) -> KeptParameters:
        """Parameters beside the current ones that the loss reads: none."""
        return KeptParameters()

    def with_kept(self, context: Any, reference: Any, old: Any, table: TitleTable) -> Any:
        """Return the context from `device_context` with what the loss reads of `kept_parameters`."""
        return context

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the loss summed over the rows of `host`, and each metric's (sum, count).

        Args:
            params: Parameters of the model.
            host: [B, words] packed rows.
            table: Features of all titles.
            task_state: State before the step.
            step: Scalar int32, the number of completed steps.
            key: [B, 2] uint32, one key for each row.
            projections: From `project_titles`; None if the model projects the titles itself.
            context: From `device_context`.
        """
        raise NotImplementedError

    def divisor(self, count: jax.Array) -> jax.Array:
        """Return the scalar that a summed gradient is divided by: the count of the loss, at least 1."""
        return jnp.maximum(count, 1)

    def update_task_state(
        self, task_state: Any, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[Any, Sums]:
        """Return the task state after `step`, and `sums` with the task's metrics added.

        Args:
            task_state, params: State and parameters before the step.
            step: Scalar int32, the number of completed steps.
            sums: Metrics of the step, summed over all devices.
        """
        return task_state, sums

    # ------------------------------------------------ scoring

    def packer(self, dtype: np.dtype) -> Packer | None:
        """Return the packer of histories in rows of a dtype; None if each history has its own row."""
        return None

    def cached_projections(self, params: Any, table: TitleTable, queries: int) -> Any:
        """Return title projections for batches of so many queries; None if they save no time."""
        return None

    def score_lists(
        self, params: Any, projections: Any, host: HostBatch, table: TitleTable, next_k: int,
        heads: tuple[str, ...], with_loss: bool,
    ) -> QueryScores:  # fmt: skip
        """Score the candidate lists of queries by `heads`, without noise or dropout.

        Args:
            params: Parameters of the model.
            projections: From `cached_projections`.
            host: [B, words] packed query rows.
            table: Features of all titles.
            next_k: Number of targets per query that are scored.
            heads: Names of the heads.
            with_loss: Compute the sums of the validation loss too.
        """
        raise NotImplementedError

    def score_all_titles(
        self, params: Any, host: HostBatch, table: TitleTable, heads: tuple[str, ...]
    ) -> TitleScores:
        """Score all titles by heads, without noise or dropout.

        Args:
            host: [B, words] packed query rows.
            table: Features of all titles.
            heads: A subset of `catalogue_heads`.
        """
        raise NotImplementedError

    def score_states(self, params: Any, host: HostBatch, table: TitleTable) -> StateScores:
        """Score B queries [B, words] by the heads on their states; of tasks on sequences."""
        raise NotImplementedError

    def policy_logits(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return log probabilities [B, V] of the next title, up to a constant of each query.

        Those of titles that may not be chosen, and below FIRST_TITLE, have no meaning.
        """
        raise NotImplementedError

    def pair_candidates(
        self, params: Any, table: TitleTable, x: PolicyInputs, key_Bx2: jax.Array, post: Post
    ) -> jax.Array:
        """Return the titles [B, L, n] among which pairs are found at each position, 0 for none.

        Args:
            x: Windows, and the titles that may not be found.
            key_Bx2: uint32 keys of the rows, for draws.
            post: Settings, of which `candidates` is one of `Protocols.candidates`.
        """
        raise NotImplementedError

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> Any:
        """Return the encodings of B queries, for `score_titles` and `predict_completion`."""
        raise NotImplementedError

    def score_titles(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        """Score a block of titles for all queries, [B, N]; `score_all_titles` in blocks.

        Args:
            encoded: From `encode_queries`.
            head: One of `ranking_heads`, or RETRIEVAL_HEAD; a task with a single score ignores it.
        """
        raise NotImplementedError

    def predict_completion(
        self, params: Any, encoded: Any, table: TitleTable, id_BxC: jax.Array
    ) -> jax.Array | None:
        """Predict the completion of candidates, [B, C] in (0, 1); None without such a head."""
        return None

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return the vectors [B, F] of the users of queries."""
        raise NotImplementedError

    def embed_titles(self, params: Any, table: TitleTable) -> jax.Array:
        """Return the vectors [V, F] of all titles."""
        raise NotImplementedError

    @property
    def dot_heads(self) -> tuple[str, ...]:
        """Names of the heads whose scores are the products of `dot_users` and `dot_titles`."""
        return ()

    def dot_users(self, params: Any, encoded: Any, head: str) -> jax.Array:
        """Return the vectors [B, D] of queries for a head of `dot_heads`."""
        raise NotImplementedError

    def dot_titles(self, params: Any, table: TitleTable, head: str) -> jax.Array:
        """Return the vectors [V, D] of all titles for a head of `dot_heads`."""
        raise NotImplementedError

    def two_stages(
        self, params: Any, host: HostBatch, table: TitleTable, eligible_BxV: jax.Array, limit: int,
        correction: Correction,
    ) -> TwoStageResult:  # fmt: skip
        """Retrieve `limit` titles by the retrieval head and rank them by the corrected scores.

        Args:
            host: [B, words] packed query rows.
            table: Features of all titles.
            eligible_BxV: Bool, the titles that may be retrieved.
            limit: Maximum number of retrieved titles.
        """
        raise NotImplementedError

    @property
    def ranking_heads(self) -> tuple[str, ...]:
        """Names of the heads that can order candidates; the one used at evaluation first."""
        return ()

    @property
    def measured_heads(self) -> tuple[str, ...]:
        """Names of the heads whose `registry.HEADS` entry has metrics of their predictions."""
        return ()

    @property
    def calibrated_heads(self) -> tuple[str, ...]:
        """Names of the heads that predict a click ("ctr": a logit) or a completion ("completion": (0, 1))."""
        return ()

    @property
    def label_heads(self) -> tuple[str, ...]:
        """Names of the heads that predict a label or a reward, whose metrics are those of predictions."""
        return ()

    @property
    def category_heads(self) -> tuple[str, ...]:
        """Names of the heads on states that predict categories of the next title."""
        return ()

    def head_loss(self, name: str) -> str:
        """Return the loss of a head of `label_heads`: "bce" (of logits), "mse", "hinge" or "softmax"."""
        raise NotImplementedError

    @property
    def pool_mix(self) -> tuple[int, ...] | None:
        """Negatives of an example by pool, in the order of `POOLS`; None for tasks without pools."""
        return None

    @property
    def catalogue_heads(self) -> tuple[str, ...]:
        """Names of the heads that can score all titles, the default first; empty if none can."""
        return self.ranking_heads

    @property
    def compared_heads(self) -> tuple[str, ...]:
        """Names of the heads whose gradients can be compared, in the order of `head_losses`; () for none."""
        return ()

    def head_losses(self, params: Any, host: HostBatch, table: TitleTable) -> tuple[jax.Array, jax.Array]:
        """Return the unweighted loss [T] of each head, summed over B query rows, and the number of rows."""
        raise NotImplementedError

    def shared_parameters(self, params: Any) -> Any:
        """Return a tree of masks that broadcast to the parameters: True where several heads read them."""
        raise NotImplementedError

    # ------------------------------------------------ common to all tasks

    def candidates(self, table: TitleTable) -> jax.Array | None:
        """Return a mask [V] of the ids with a popularity rank; None: all from FIRST_TITLE on have one."""
        return jnp.asarray(table.rank) < len(table.rank) if self.layout.has_gaps else None

    def microbatches(self, device_batch: int) -> int:
        """Return the smallest number of equal microbatches of at most `train.microbatch_size` examples."""
        limit = (
            self.config.train.microbatch_size or self.microbatch_limit(jax.default_backend()) or device_batch
        )
        return next(n for n in range(-(-device_batch // limit), device_batch + 1) if device_batch % n == 0)

    @property
    def shards_titles(self) -> bool:
        """True if title embeddings, and their optimizer state, are row-sharded over the devices."""
        return self.config.model.item_table_sharding == "split"

    @cached_property
    def abstract_params(self) -> Any:
        """Shapes and dtypes of the parameters, without allocating them."""
        return jax.eval_shape(self.init_params, jax.random.key(0), empty_table(self.layout, self.config))

    def title_table(self, arrays: Arrays) -> TitleTable:
        """Return the title table of a catalogue, on the host."""
        return title_table(arrays, self.layout, self.config)
