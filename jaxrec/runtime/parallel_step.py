"""Mapping of a step over devices, by pmap or by jit and shard_map.

A step is written for one device with `axis_name=AXIS`. Its arguments are the replicated state, the
per-device shard of the batch and the replicated title table. Outside the step, the state is one ordinary
replicated array per leaf.

Where the devices hold the training rows, a batch has the indices of its rows. Each device then looks up the
rows that it holds for the batch of every device, and the devices exchange them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxrec.core.batch import HostBatch, IndexBatch, Packing, PackingPlan
from jaxrec.runtime.device_batch import (
    DeviceBatch,
    as_global_array,
    as_global_batch,
    device_words,
    ensure_transferred,
    unpack,
)
from jaxrec.runtime.mesh import AXIS, mesh, partition_specs


class DeviceRows(NamedTuple):
    """Training rows on the devices of this process.

    Attributes:
        words: [local devices, rows per device, words] uint32, a range of the rows on each device.
        pack: Returns the packing of a device's batch, of its words [B, words] and the plan; traced. None:
            each history has its own row.
    """

    words: jax.Array
    pack: Callable[[jax.Array, PackingPlan], Packing] | None = None


class ParallelStep:
    """A mapped `step(state, batch, table) -> (state, sums)`; the state is donated."""

    def __init__(self, mapped: Any, mapping: str, rows: jax.Array | None = None) -> None:
        self._mapped, self._mapping = mapped, mapping
        self._to_input = as_global_batch if mapping == "shard_map" else lambda batch: batch
        if rows is not None and mapping == "shard_map":
            rows = as_global_array(rows)
        self._rows = () if rows is None else (rows,)

    def __call__(self, state: Any, batch: Any, table: Any) -> Any:
        """Take one step on each batch and return (state, sums)."""
        return self._mapped(state, self._to_input(ensure_transferred(batch)), table, *self._rows)

    def lower(self, state: Any, batch: Any, table: Any) -> Callable[[], Any]:
        """Trace the step for arguments of these shapes; return its compile function.

        A step that was not compiled in advance is compiled at its first call. Under pmap on several processes
        the returned function does nothing, because pmap lowers only concrete arrays there.

        Args:
            state: The state, or an abstract state with its shardings.
            batch: A host batch or a `DeviceBatch`.
            table: The title table.
        """
        if self._mapping == "pmap" and jax.process_count() > 1:
            return lambda: None
        batch = self._to_input(ensure_transferred(batch))
        return self._mapped.lower(state, batch, table, *self._rows).compile


def parallelize_step(
    step: Callable, mapping: str = "pmap", like: Any = None, rows: DeviceRows | None = None
) -> ParallelStep:
    """Map a per-device step over all devices.

    If the batch is a group of several batches, the mapped step takes one step on each batch in order, and
    returns the total of their sums.

    Args:
        step: `step(state, shard, table) -> (state, sums)` for one device.
        mapping: "pmap", or "shard_map" for the same function under `jit` and `shard_map`.
        like: A concrete or abstract state that determines, with "shard_map", which leaves are sharded. None:
            the whole state is replicated.
        rows: Training rows on the devices of this process, for batches that are an `IndexBatch`.

    Returns:
        The mapped step. Its batch is a `DeviceBatch`, or the host batch [B / processes, ...] of this
        process, which the step then transfers itself.
    """
    words = None if rows is None else rows.words
    if mapping == "pmap":
        axes = (None, 0, None) if rows is None else (None, 0, None, 0)
        on_device = _scan_batches(step, rows)
        mapped = jax.pmap(on_device, AXIS, in_axes=axes, out_axes=(None, None), donate_argnums=0)
        return ParallelStep(mapped, mapping, words)
    return ParallelStep(shard_map_step(step, like, rows), mapping, words)


def shard_map_step(step: Callable, like: Any = None, rows: DeviceRows | None = None) -> Any:
    """Return the jitted function that `parallelize_step` uses for "shard_map".

    The arguments of the function are a state, the global `DeviceBatch` of all processes, a table and, with
    `rows`, the words of all devices. With abstract arguments the function can be lowered without running it.
    `like` and `rows` are as in `parallelize_step`.
    """
    out_specs = partition_specs(like), PartitionSpec()
    on_device = _scan_batches(step, rows)
    mapped = _shard_mapped(on_device, partition_specs(like), out_specs, rows is not None)
    return jax.jit(mapped, donate_argnums=0)


def _scan_batches(step: Callable, rows: DeviceRows | None = None) -> Callable:
    """Return a step on one device that takes `step` on each batch of a group."""

    def on_device(state: Any, batch: DeviceBatch, table: Any, row_words: jax.Array | None = None) -> Any:
        def one_step(state: Any, words: jax.Array) -> Any:
            shard = unpack(words, batch.spec)
            if rows is not None and row_words is not None:
                shard = _with_words(shard, rows._replace(words=row_words.reshape(-1, row_words.shape[-1])))
            return step(state, shard, table)

        words_of_batches = device_words(batch)
        if len(words_of_batches) == 1:
            return one_step(state, words_of_batches[0])
        state, sums = jax.lax.scan(one_step, state, words_of_batches)
        return state, jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)

    return on_device


def _with_words(batch: IndexBatch, rows: DeviceRows) -> HostBatch:
    """Return the per-device batch with the words of its rows, packed, inside a mapped step.

    A barrier keeps the compiler from merging the lookup with the step: the step is then the same program as
    for transferred words.

    Args:
        batch: Indices of the rows of the global batch, the same on all devices.
        rows: Rows of this device, a range of the split: words [R, W].
    """
    rows_RxW = rows.words
    size = len(rows_RxW)
    index = batch.rows - jax.lax.axis_index(AXIS) * size
    is_here = (index >= 0) & (index < size)
    words = jnp.where(is_here[:, None], rows_RxW.at[index].get(mode="clip"), jnp.uint32(0))
    # One device holds each row, so that the sum over devices is its words. Each device receives its shard.
    words = jax.lax.psum_scatter(words, AXIS, scatter_dimension=0, tiled=True)
    packing = None if batch.plan is None or rows.pack is None else rows.pack(words, batch.plan)
    return jax.lax.optimization_barrier(HostBatch(words, batch.valid, packing))


def _shard_mapped(on_device: Callable, state_specs: Any, out_specs: Any, with_rows: bool = False) -> Callable:
    """Map `on_device` over all devices with shard_map and trees of PartitionSpec."""
    in_specs = (state_specs, PartitionSpec(AXIS), PartitionSpec(), *[PartitionSpec(AXIS)] * with_rows)
    # With check_vma the gradients of a per-device step are n times too large on n devices.
    return jax.shard_map(on_device, mesh=mesh(), in_specs=in_specs, out_specs=out_specs, check_vma=False)


def parallelize_queries(step: Callable, like: Any = None) -> Callable:
    """Map a per-device `step(params, shard, table) -> outputs` over all devices.

    Nothing is donated, and the outputs are replicated.

    Args:
        step: The step of one device.
        like: Concrete or abstract parameters that determine which leaves are sharded. None: all parameters
            are replicated.

    Returns:
        A function of parameters, a batch as in `parallelize_step` and a table. The batch must not be a group
        of several batches.
    """

    def on_device(params: Any, batch: DeviceBatch, table: Any) -> Any:
        (words,) = device_words(batch)
        return step(params, unpack(words, batch.spec), table)

    if like is None:
        mapped = jax.pmap(on_device, AXIS, in_axes=(None, 0, None), out_axes=None)
        return lambda params, batch, table: mapped(params, ensure_transferred(batch), table)
    jitted = jax.jit(_shard_mapped(on_device, partition_specs(like), PartitionSpec()))
    return lambda params, batch, table: jitted(params, as_global_batch(ensure_transferred(batch)), table)


def example_rows(size: int, microbatch: jax.Array | int, num_microbatches: int) -> jax.Array:
    """Return the rows of the global batch in one microbatch of this device.

    Call this function inside a mapped step. The rows of the global batch are assigned round robin to the
    microbatches of all devices.

    Args:
        size: Number of examples in the microbatch.
        microbatch: Index of the microbatch on this device, a scalar.
        num_microbatches: Number of microbatches per device.

    Returns:
        [size] int32 indices into the global batch.
    """
    stride = num_microbatches * jax.lax.axis_size(AXIS)
    return jax.numpy.arange(size) * stride + jax.lax.axis_index(AXIS) * num_microbatches + microbatch
