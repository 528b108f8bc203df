"""Training step of one device, for any task.

Each device differentiates the *sum* of its losses. A `psum` outside the differentiated function adds the
gradients, metric sums and counts of all devices. One division then gives the mean, which is unbiased for
devices with different numbers of valid examples.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.models.kernels import pallas
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import at_least_float32
from jaxrec.runtime.mesh import AXIS, merge_sharded, psum_replicated, split_sharded
from jaxrec.runtime.parallel_step import example_rows
from jaxrec.tasks.base import Task
from jaxrec.tasks.inputs.title_tables import masked_table
from jaxrec.tasks.outputs import Sums
from jaxrec.training import optimizer
from jaxrec.training.adaptation.low_rank import factor_gradients, merged
from jaxrec.training.nonfinite import skip_nonfinite
from jaxrec.training.restraints import has_anchor, keep_frozen, restrain_gradients
from jaxrec.training.train_state import TrainState


@dataclass(frozen=True, eq=False)
class TrainStep:
    """Step `(state, batch, table) -> (state, sums)` of a task on a per-device batch.

    The function `runtime.parallel_step.parallelize_step` maps the step over the devices by `mapping`.
    """

    task: Task

    @property
    def mapping(self) -> str:
        """Mapping for `parallelize_step`: "shard_map" if titles are sharded, else "pmap"."""
        return "shard_map" if self.task.shards_titles else "pmap"

    def __call__(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[TrainState, Sums]:
        """Return the state after one step, and metric sums; called inside a mapped step."""
        if self._fuses_update(state):
            return self._fused_update(state, host, table)
        config, start = self.task.config.optimizer, self.task.config.start
        grads, sums = self.gradients(state, host, table)
        grads = restrain_gradients(start, grads, state.params, state.reference, state.anchored)
        low_rank, trained = state.low_rank, state.params
        if low_rank:
            grads, trained = factor_gradients(grads, low_rank), low_rank.factors
        trained, optimizer_state = optimizer.step(
            config, grads, state.optimizer, trained, value=state.validation, fresh=state.fresh
        )
        if low_rank:
            low_rank = low_rank._replace(factors=trained)
            params = merged(state.params, low_rank)
        else:
            params = keep_frozen(start, state.params, trained)
        sums |= self._measured(global_norm(grads), optimizer_state)
        average = state.average
        if average:
            average = optimizer.averaged(config, average, params, state.step)
        task_state, sums = self.task.update_task_state(state.task_state, state.params, state.step, sums)
        after = TrainState(
            params, optimizer_state, state.step + 1, state.validation, jnp.bool_(False), task_state, average,
            state.reference, state.anchored, self._old(state, params), low_rank,
        )  # fmt: skip
        if self.task.config.train.on_nonfinite == "skip":
            return skip_nonfinite(state, after, sums)
        return after, sums

    def _measured(self, norm: jax.Array, optimizer_state: Any) -> Sums:
        """Return the metric sums of an update."""
        rate = optimizer.learning_rate(optimizer_state, self.task.config.optimizer)
        return {"gradient_norm": (norm, jnp.float32(1)), "learning_rate": (rate, jnp.float32(1))}

    def _fuses_update(self, state: TrainState) -> bool:
        """Return True where few kernels make the update: plain Adam in float32 on a GPU."""
        config = self.task.config
        plain = not (config.start.freeze or has_anchor(config.start) or state.low_rank or state.average)
        float32 = all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))
        stops = config.train.on_nonfinite == "stop"
        return plain and float32 and stops and pallas.is_available(jax.default_backend(), "float32")

    def _fused_update(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[TrainState, Sums]:
        """Return what `__call__` returns, with an update by few kernels."""
        gradient_sums, sums, examples = self._gradient_sums(state, host, table)
        params, optimizer_state, squares = optimizer.fused_step(
            self.task.config.optimizer, gradient_sums, examples, state.optimizer, state.params,
            value=state.validation, fresh=state.fresh,
        )  # fmt: skip
        sums |= self._measured(norm_over_devices(*squares), optimizer_state)
        task_state, sums = self.task.update_task_state(state.task_state, state.params, state.step, sums)
        return state._replace(
            params=params, optimizer=optimizer_state, step=state.step + 1, fresh=jnp.bool_(False),
            task_state=task_state, old=self._old(state, params),
        ), sums  # fmt: skip

    def _old(self, state: TrainState, params: Any) -> Any:
        """Return the parameters of an earlier step: every `refresh` steps those after this step."""
        refresh = self.task.kept_parameters.refresh
        if not refresh:
            return ()
        is_due = (state.step + 1) % refresh == 0
        return jax.tree.map(lambda new, old: jnp.where(is_due, new, old), params, state.old)

    def gradients(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[Any, Sums]:
        """Return gradients of the mean loss of the global batch, and metric sums.

        Called inside a mapped step.

        Args:
            state: The training state, on this device.
            host: The per-device batch, [B / devices, words] packed rows.
            table: Features of all titles.

        Returns:
            A tree as `state.params`, and metric -> (sum, count) over all devices.
        """
        gradient_sums, sums, examples = self._gradient_sums(state, host, table)
        return jax.tree.map(lambda g: g / examples.astype(g.dtype), gradient_sums), sums

    def _gradient_sums(
        self, state: TrainState, host: HostBatch, table: TitleTable
    ) -> tuple[Any, Sums, jax.Array]:
        """Return gradient sums of the global batch, metric sums, and the divisor of the sums."""
        count = self.task.microbatches(len(host.valid))
        table = masked_table(table, self.task.config, state.step)
        context = self.task.device_context(state.task_state, state.step, host, table)
        context = self.task.with_kept(context, state.reference, state.old, table)
        if count == 1 and not self.task.shards_titles:
            (grads, _), sums = self._microbatch(state, None, host, table, 0, 1, context)
            grads, sums = psum_replicated((grads, sums))
        else:
            grads, sums = psum_replicated(self._accumulate(state, host, table, count, context))
        return grads, sums, self.task.divisor(sums["loss"][1])

    def _accumulate(
        self, state: TrainState, host: HostBatch, table: TitleTable, count: int, context: Any
    ) -> tuple[Any, Sums]:
        """Return gradients of a device's summed loss, and metric sums.

        Both are accumulated over `count` microbatches.
        """
        stacked = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), host)
        projections, projections_vjp = None, None
        if self.task.projects_once(len(host.valid)):
            projections, projections_vjp = jax.vjp(
                lambda params: self.task.project_titles(params, table, context), state.params
            )

        def add(total: Any, microbatch: tuple[jax.Array, HostBatch]) -> tuple[Any, Sums]:
            index, rows = microbatch
            grads, sums = self._microbatch(state, projections, rows, table, index, count, context)
            return jax.tree.map(jnp.add, total, grads), sums

        zeros = jax.tree.map(  # float32: a bfloat16 sum over many microbatches would stop growing
            lambda x: jnp.zeros(x.shape, at_least_float32(x.dtype)),
            (split_sharded(state.params)[1], projections),
        )
        (grads, cotangents), microbatch_sums = jax.lax.scan(add, zeros, (jnp.arange(count), stacked))
        if projections_vjp is not None:
            cotangents = jax.tree.map(lambda g, x: g.astype(x.dtype), cotangents, projections)
            sharded, replicated = split_sharded(projections_vjp(cotangents)[0])
            grads = merge_sharded(sharded, jax.tree.map(jnp.add, grads, replicated))
        return grads, jax.tree.map(lambda x: x.sum(0), microbatch_sums)

    def _microbatch(
        self, state: TrainState, projections: Any, host: HostBatch, table: TitleTable,
        index: jax.Array | int, count: int, context: Any,
    ) -> tuple[tuple[Any, Any], Sums]:  # fmt: skip
        """Return gradients of the summed loss of one microbatch, and metric sums.

        The gradients are with respect to the replicated parameters and the projections. Gradients of sharded
        parameters follow from the gradients of the projections, in `_accumulate`.
        """
        rows = example_rows(len(host.valid), index, count)
        key = rng.row_keys(self.task.config.train.seed, state.step, rows)
        sharded, replicated = split_sharded(state.params)

        def loss(replicated: Any, projections: Any) -> tuple[jax.Array, Sums]:
            params = merge_sharded(sharded, replicated)
            return self.task.loss(
                params, host, table, state.task_state, state.step, key, projections, context
            )

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(replicated, projections)


def global_norm(gradients: Any) -> jax.Array:
    """Return the L2 norm of the global gradient, a scalar, inside a mapped step.

    The squared norms of sharded leaves are added over the devices.
    """
    sharded, replicated = split_sharded(gradients)
    if not jax.tree.leaves(sharded):
        return optimizer.norm(gradients)
    return norm_over_devices(optimizer.norm(replicated) ** 2, optimizer.norm(sharded) ** 2)


def norm_over_devices(replicated: jax.Array, sharded: jax.Array) -> jax.Array:
    """Return the norm of a vector of which some numbers are on every device and some on one.

    Args:
        replicated: Squared norm of the numbers that every device has, a scalar.
        sharded: Squared norm of those that this device alone has, a scalar.
    """
    return jnp.sqrt(replicated + jax.lax.psum(sharded, AXIS))
