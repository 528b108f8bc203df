"""Mapping of a step over devices, by pmap or by jit and shard_map.

A step is written for one device with `axis_name=AXIS`; it takes the replicated state, its share of the
batch and the replicated title table. Outside, the state is one ordinary replicated array.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxrec.runtime.device_batch import DeviceBatch, as_global_batch, device_words, ensure_transferred, unpack
from jaxrec.runtime.mesh import AXIS, mesh, partition_specs


class ParallelStep:
    """`step(state, batch, table) -> (state, sums)` over all devices, the state donated."""

    def __init__(self, mapped: Any, how: str) -> None:
        self._mapped, self._how = mapped, how
        self._given = as_global_batch if how == "shard_map" else lambda batch: batch

    def __call__(self, state: Any, batch: Any, table: Any) -> Any:
        return self._mapped(state, self._given(ensure_transferred(batch)), table)

    def lower(self, state: Any, batch: Any, table: Any) -> Callable[[], Any]:
        """Traces the step for what will be called with the like of these, and gives what compiles it; the
        state may be abstract, with its shardings. A step that was not readied so compiles when it is called:
        as does a pmapped one on several processes, where pmap lowers arrays alone."""
        if self._how == "pmap" and jax.process_count() > 1:
            return lambda: None
        return self._mapped.lower(state, self._given(ensure_transferred(batch)), table).compile


def parallelize_step(step: Callable, how: str = "pmap", like: Any = None) -> ParallelStep:
    """`step` of one device's share, mapped.

    The batch is of `put`, or is put there and then: this process's share, [B / processes, ...]. Where
    several were put together, the step is taken on each in turn, and their sums are added up. `how` is
    "pmap", or "shard_map", which is the same function under `jit`: then what of a state is dealt to the
    devices is said by one `like` it, an abstract one will do. Without, it is replicated.
    """
    if how == "pmap":
        shares = (None, 0, None)
        mapped = jax.pmap(_scan_batches(step), AXIS, in_axes=shares, out_axes=(None, None), donate_argnums=0)
        return ParallelStep(mapped, how)
    return ParallelStep(shard_map_step(step, like), how)


def shard_map_step(step: Callable, like: Any = None) -> Any:
    """What `map_over_devices` maps with "shard_map": a jitted function of a state, the `Placed` batches of
    all processes and a table, to be lowered without running it where they are abstract."""
    out = partition_specs(like), PartitionSpec()
    return jax.jit(_shard_mapped(_scan_batches(step), partition_specs(like), out), donate_argnums=0)


def _scan_batches(step: Callable) -> Callable:
    """`step` on each of the batches that a device was sent."""

    def on_share(state: Any, batch: DeviceBatch, table: Any) -> Any:
        def one(state: Any, words: jax.Array) -> Any:
            return step(state, unpack(words, batch.form), table)

        each = device_words(batch)
        if len(each) == 1:
            return one(state, each[0])
        state, sums = jax.lax.scan(one, state, each)
        return state, jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)

    return on_share


def _shard_mapped(on_share: Callable, of_state: Any, out: Any) -> Callable:
    """`on_share` on every device's share; `of_state` says how the state lies, `out` the outputs."""
    given = (of_state, PartitionSpec(AXIS), PartitionSpec())
    # With check_vma the gradients of a per-device step come n times too large.
    return jax.shard_map(on_share, mesh=mesh(), in_specs=given, out_specs=out, check_vma=False)


def parallelize_queries(step: Callable, like: Any = None) -> Callable:
    """`step(params, batch, table) -> outputs` over all devices; nothing donated, outputs replicated. The
    batch is as in `map_over_devices`, and so is what of `params` is dealt: with one `like` it."""

    def on_share(params: Any, batch: DeviceBatch, table: Any) -> Any:
        (words,) = device_words(batch)
        return step(params, unpack(words, batch.form), table)

    if like is None:
        mapped = jax.pmap(on_share, AXIS, in_axes=(None, 0, None), out_axes=None)
        return lambda params, batch, table: mapped(params, ensure_transferred(batch), table)
    jitted = jax.jit(_shard_mapped(on_share, partition_specs(like), PartitionSpec()))
    return lambda params, batch, table: jitted(params, as_global_batch(ensure_transferred(batch)), table)


def example_rows(size: int, part: jax.Array | int, parts: int) -> jax.Array:
    """[size] rows of the global batch that are the share `part` of this device's `parts`; inside a mapped
    step. A batch is dealt round robin to all devices' parts."""
    shares = parts * jax.lax.axis_size(AXIS)
    return jax.numpy.arange(size) * shares + jax.lax.axis_index(AXIS) * parts + part
