"""Devices: the one place that sends batches, maps a step, and knows a leading device axis.

A step is written for one device with `axis_name=AXIS`; it takes the replicated state, its share of the
batch and the replicated title table. Outside, the state is one ordinary replicated array.

A batch is many arrays, and each would be a transfer of its own, begun when the step is called. So each
device's share of all of them is joined into one array of words, which `put` sends ahead of the step and
the mapped step takes apart: slices whose places are known when it is compiled. Several batches travel as
one such array, and a device then takes a step on each before the host is asked again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def devices() -> int:
    """Devices of all processes together."""
    return jax.device_count()


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
    """Batches of one form on their devices."""

    words: Any  # [devices of this process, batches, words] uint32
    form: Form  # static: another one is another program

    @property
    def steps(self) -> int:
        """One for each batch."""
        return self.words.shape[1]


def form_of(batch: Any) -> Form:
    """Of this process's share of a batch: arrays [B / processes, ...], B divisible by the devices."""
    n = jax.local_device_count()
    arrays, tree = jax.tree.flatten(batch)
    return Form(tree, tuple(((len(x) // n, *x.shape[1:]), x.dtype) for x in arrays))


def join(*batches: Any) -> Placed:
    """This process's share of batches of one form, their arrays of four-byte numbers or bools, as one array
    of the host; each device's part of it lies in one piece."""
    n = jax.local_device_count()
    parts = [[_words(x).reshape(n, -1) for x in jax.tree.leaves(batch)] for batch in batches]
    words = np.concatenate([part for batch in parts for part in batch], axis=1)
    return Placed(words.reshape(n, len(batches), -1), form_of(batches[0]))


def _words(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "b":
        return x.astype(np.uint32)  # a word each, so that every array starts on one
    if x.dtype.itemsize != 4:
        raise TypeError(f"a batch's arrays hold numbers of four bytes, or bools, not {x.dtype}")
    return x.view(np.uint32)


def put(*batches: Any) -> Placed:
    """This process's share of batches of one form, on its way to the devices in one transfer; of any
    thread."""
    joined = join(*batches)
    local = NamedSharding(mesh().local_mesh, PartitionSpec(AXIS))
    return Placed(jax.device_put(joined.words, local), joined.form)


def put_together(batches: Sequence[Any], most: int) -> list[Placed]:
    """As one where they are `most` and of one form, else each alone: every number of them that is put
    together is a program of its own. The same on every process."""
    if len(batches) == most and len({form_of(batch) for batch in batches}) == 1:
        return [put(*batches)]
    return [put(batch) for batch in batches]


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
    """`step(state, batch, table) -> (state, sums)` over all devices, the state donated.

    The batch is of `put`, or is put there and then: this process's share, [B / processes, ...]. Where
    several were put together, the step is taken on each in turn, and their sums are added up. `how` is
    "pmap", or "shard_map", which is the same function under `jit` for tables split by rows.
    """

    def on_share(state: Any, batch: Placed, table: Any) -> Any:
        def one(state: Any, words: jax.Array) -> Any:
            return step(state, _apart(words, batch.form), table)

        each = batch.words.reshape(-1, batch.words.shape[-1])  # [batches, words]
        if len(each) == 1:
            return one(state, each[0])
        state, sums = jax.lax.scan(one, state, each)
        return state, jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)

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
        return step(params, _apart(batch.words[0], batch.form), table)

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
