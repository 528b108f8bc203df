"""Mapping of a step over devices, by pmap or by jit and shard_map.

A step is written for one device with `axis_name=AXIS`. Its arguments are the replicated state, the
per-device shard of the batch and the replicated title table. Outside the step, the state is one ordinary
replicated array per leaf.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxrec.runtime.device_batch import DeviceBatch, as_global_batch, device_words, ensure_transferred, unpack
from jaxrec.runtime.mesh import AXIS, mesh, partition_specs


class ParallelStep:
    """A mapped `step(state, batch, table) -> (state, sums)`; the state is donated."""

    def __init__(self, mapped: Any, mapping: str) -> None:
        self._mapped, self._mapping = mapped, mapping
        self._to_input = as_global_batch if mapping == "shard_map" else lambda batch: batch

    def __call__(self, state: Any, batch: Any, table: Any) -> Any:
        """Take one step on each batch and return (state, sums)."""
        return self._mapped(state, self._to_input(ensure_transferred(batch)), table)

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
        return self._mapped.lower(state, self._to_input(ensure_transferred(batch)), table).compile


def parallelize_step(step: Callable, mapping: str = "pmap", like: Any = None) -> ParallelStep:
    """Map a per-device step over all devices.

    If the batch is a group of several batches, the mapped step takes one step on each batch in order, and
    returns the total of their sums.

    Args:
        step: `step(state, shard, table) -> (state, sums)` for one device.
        mapping: "pmap", or "shard_map" for the same function under `jit` and `shard_map`.
        like: A concrete or abstract state that determines, with "shard_map", which leaves are sharded. None:
            the whole state is replicated.

    Returns:
        The mapped step. Its batch is a `DeviceBatch`, or the host batch [B / processes, ...] of this
        process, which the step then transfers itself.
    """
    if mapping == "pmap":
        axes = (None, 0, None)
        mapped = jax.pmap(_scan_batches(step), AXIS, in_axes=axes, out_axes=(None, None), donate_argnums=0)
        return ParallelStep(mapped, mapping)
    return ParallelStep(shard_map_step(step, like), mapping)


def shard_map_step(step: Callable, like: Any = None) -> Any:
    """Return the jitted function that `parallelize_step` uses for "shard_map".

    The arguments of the function are a state, the global `DeviceBatch` of all processes and a table. With
    abstract arguments the function can be lowered without running it. `like` is as in `parallelize_step`.
    """
    out_specs = partition_specs(like), PartitionSpec()
    return jax.jit(_shard_mapped(_scan_batches(step), partition_specs(like), out_specs), donate_argnums=0)


def _scan_batches(step: Callable) -> Callable:
    """Return a step on one device that takes `step` on each batch of a group."""

    def on_device(state: Any, batch: DeviceBatch, table: Any) -> Any:
        def one_step(state: Any, words: jax.Array) -> Any:
            return step(state, unpack(words, batch.spec), table)

        words_of_batches = device_words(batch)
        if len(words_of_batches) == 1:
            return one_step(state, words_of_batches[0])
        state, sums = jax.lax.scan(one_step, state, words_of_batches)
        return state, jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)

    return on_device


def _shard_mapped(on_device: Callable, state_specs: Any, out_specs: Any) -> Callable:
    """Map `on_device` over all devices with shard_map and trees of PartitionSpec."""
    in_specs = (state_specs, PartitionSpec(AXIS), PartitionSpec())
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
