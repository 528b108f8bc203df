"""Devices and hosts: the one place that sends batches, maps a step, and knows a leading device axis.

A step is written for one device with `axis_name=AXIS`; it takes the replicated state, its share of the
batch and the replicated title table. Outside, the state is one ordinary replicated array.

A batch is many arrays, and each would be a transfer of its own, begun when the step is called. So each
device's share of all of them is joined into one array of words, which `put` sends ahead of the step and
the mapped step takes apart: slices whose places are known when it is compiled.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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


class Form(NamedTuple):
    """What joined words are taken apart into."""

    tree: Any  # of a batch's arrays
    arrays: tuple[tuple[tuple[int, ...], np.dtype], ...]  # shape of a device's share, and dtype


@partial(jax.tree_util.register_dataclass, data_fields=("words",), meta_fields=("form",))
@dataclass(frozen=True)
class Placed:
    """A batch on its devices."""

    words: Any  # [devices of this process, words] uint32
    form: Form  # static: another one is another program


def join(batch: Any) -> Placed:
    """This process's share of a batch, arrays [B / processes, ...] of four-byte numbers or bools, as one
    array of the host; each device's part of it lies in one piece. B divides by the devices."""
    n = jax.local_device_count()
    arrays, tree = jax.tree.flatten(batch)
    form = Form(tree, tuple(((len(x) // n, *x.shape[1:]), x.dtype) for x in arrays))
    # A bool takes a word, so that every array starts on one.
    parts = [x.reshape(n, -1).astype(np.uint32) if x.dtype.kind == "b" else _words(x, n) for x in arrays]
    return Placed(np.concatenate(parts, axis=1), form)


def _words(x: np.ndarray, n: int) -> np.ndarray:
    if x.dtype.itemsize != 4:
        raise TypeError(f"a batch's arrays hold numbers of four bytes, or bools, not {x.dtype}")
    return x.reshape(n, -1).view(np.uint32)


def put(batch: Any) -> Placed:
    """This process's share of a batch, on its way to the devices in one transfer; of any thread."""
    joined = join(batch)
    local = NamedSharding(mesh().local_mesh, PartitionSpec(AXIS))
    return Placed(jax.device_put(joined.words, local), joined.form)


def _apart(words: jax.Array, form: Form) -> Any:
    """The inverse of `join`, of a device's share; traced."""
    arrays, first = [], 0
    for shape, dtype in form.arrays:
        last = first + math.prod(shape)
        part = words[first:last].reshape(shape)
        arrays.append(part != 0 if dtype.kind == "b" else jax.lax.bitcast_convert_type(part, dtype))
        first = last
    return jax.tree.unflatten(form.tree, arrays)


def map_over_devices(step: Callable, how: str = "pmap") -> Callable:
    """`step(state, batch, table) -> (state, metrics)` over all devices, the state donated.

    The batch is of `put`, or is put there and then: this process's share, [B / processes, ...].
    `how` is "pmap", or "shard_map", which is the same function under `jit` for tables split by rows.
    """

    def on_share(state: Any, batch: Placed, table: Any) -> Any:
        return step(state, _apart(batch.words.reshape(-1), batch.form), table)

    if how == "pmap":
        mapped = jax.pmap(on_share, AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0)
        return lambda state, batch, table: mapped(state, _placed(batch), table)
    inner = jax.shard_map(
        on_share,
        mesh=mesh(),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    jitted = jax.jit(inner, donate_argnums=0)
    return lambda state, batch, table: jitted(state, _widened(_placed(batch)), table)


def map_queries(step: Callable) -> Callable:
    """`step(params, batch, table) -> outputs` over all devices; nothing donated, outputs replicated. The
    batch is as in `map_over_devices`."""

    def on_share(params: Any, batch: Placed, table: Any) -> Any:
        return step(params, _apart(batch.words, batch.form), table)

    mapped = jax.pmap(on_share, AXIS, in_axes=(None, 0, None), out_axes=None)
    return lambda params, batch, table: mapped(params, _placed(batch), table)


def _placed(batch: Any) -> Placed:
    return batch if isinstance(batch, Placed) else put(batch)


def _widened(batch: Placed) -> Placed:
    """Of this process's devices, as an array of all processes; without a copy."""
    words = batch.words
    parts = [shard.data for shard in words.addressable_shards]
    where, shape = NamedSharding(mesh(), PartitionSpec(AXIS)), (devices(), *words.shape[1:])
    return Placed(jax.make_array_from_single_device_arrays(shape, where, parts), batch.form)


def rows_of_share(size: int, part: jax.Array | int, parts: int) -> jax.Array:
    """[size] rows of the global batch that are the share `part` of this device's `parts`; inside a mapped
    step. A batch is dealt round robin to all devices' parts."""
    shares = parts * jax.lax.axis_size(AXIS)
    return jax.numpy.arange(size) * shares + jax.lax.axis_index(AXIS) * parts + part
