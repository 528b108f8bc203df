"""Devices and hosts: the one place that maps a per-device step, and that knows a leading device axis.

A step is written for one device with `axis_name=AXIS`; it takes the replicated state, its share of the
batch and the replicated title table. Outside, the state is one ordinary replicated array.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def join_hosts() -> None:
    """Joins the other processes where JAXREC_COORDINATOR (host:port), JAXREC_PROCESSES and
    JAXREC_PROCESS are set; call before anything touches a device."""
    if "JAXREC_COORDINATOR" in os.environ:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            os.environ["JAXREC_COORDINATOR"],
            int(os.environ["JAXREC_PROCESSES"]),
            int(os.environ["JAXREC_PROCESS"]),
        )


def devices() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def first_process() -> bool:
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Waits for every process to come to the same place."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agreed(urgency: int) -> int:
    """The largest of all processes' urgencies. Every process must ask at the same step: clocks and signals
    differ between them, and a save that one alone begins never ends."""
    if jax.process_count() == 1:
        return urgency
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(urgency)).max())


def mesh() -> Mesh:
    """All devices of all processes along AXIS, in the order of a batch's shares."""
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def replicated() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Host or device arrays as arrays that every device holds.

    An uncommitted first state would compile the step a second time. The buffers are copies, so that
    donating them destroys nothing the caller still holds.
    """
    where = replicated()
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), where, lambda _: np.asarray(x)), tree
    )


def as_global(tree: Any) -> Any:
    """Replicated arrays as arrays of all processes, without a copy: what a mapped step gives back is, on
    several processes, an array of this process's devices alone, which no checkpoint takes."""
    if jax.process_count() == 1:
        return tree
    where = replicated()

    def widen(x: jax.Array) -> jax.Array:
        if not x.is_fully_addressable:
            return x
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, where, parts)

    return jax.tree.map(widen, tree)


def map_over_devices(step: Callable, how: str = "pmap") -> Callable:
    """`step(state, batch, table) -> (state, metrics)` over all devices, the state donated.

    The batch is this process's share, [B / processes, ...], B divisible by the number of devices.
    `how` is "pmap", or "shard_map", which is the same function under `jit` for tables split by rows.
    """
    if how == "pmap":
        mapped = jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0)
        return lambda state, batch, table: mapped(state, _split(batch), table)
    spec = PartitionSpec(AXIS)
    inner = jax.shard_map(
        step,
        mesh=mesh(),
        in_specs=(PartitionSpec(), spec, PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    jitted = jax.jit(inner, donate_argnums=0)
    return lambda state, batch, table: jitted(state, _shard(batch), table)


def map_queries(step: Callable) -> Callable:
    """`step(params, batch, table) -> outputs` over all devices; nothing donated, outputs replicated."""
    mapped = jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None)
    return lambda params, batch, table: mapped(params, _split(batch), table)


def _split(batch: Any) -> Any:
    """[devices of this process, share, ...] of each array."""
    n = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), batch)


def _shard(batch: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(NamedSharding(mesh(), PartitionSpec(AXIS)), x), batch
    )


def rows_of_share(size: int, part: jax.Array | int, parts: int) -> jax.Array:
    """[size] rows of the global batch that are the share `part` of this device's `parts`; inside a mapped
    step. A batch is dealt round robin to all devices' parts."""
    shares = parts * jax.lax.axis_size(AXIS)
    return jax.numpy.arange(size) * shares + jax.lax.axis_index(AXIS) * parts + part
