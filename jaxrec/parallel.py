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

from jaxrec.schema import DEALT

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


def _is_dealt(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "key", None) == DEALT


def specs(tree: Any) -> Any:
    """How each leaf of a state lies on the devices: dealt by its first axis, or replicated; of None, all."""
    if tree is None:
        return PartitionSpec()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: PartitionSpec(AXIS) if _is_dealt(path) else PartitionSpec(), tree
    )


def placement(tree: Any) -> Any:
    """The same as a tree of shardings over all devices."""
    where = mesh()
    return jax.tree.map(
        lambda spec: NamedSharding(where, spec), specs(tree), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def dealt_alone(tree: Any) -> tuple[Any, Any]:
    """The dealt leaves of a tree, None in place of the others; and the others, None in place of those."""
    flags = jax.tree_util.tree_map_with_path(lambda path, _: _is_dealt(path), tree)
    dealt = jax.tree.map(lambda flag, x: x if flag else None, flags, tree)
    return dealt, jax.tree.map(lambda flag, x: None if flag else x, flags, tree)


def joined(dealt: Any, others: Any) -> Any:
    """The inverse of `dealt_alone`."""
    return jax.tree.map(lambda a, b: b if a is None else a, dealt, others, is_leaf=lambda x: x is None)


def added_up(tree: Any) -> Any:
    """A tree summed over devices, but for what is dealt, whose sums are at home; inside a mapped step."""
    dealt, others = dealt_alone(tree)
    return joined(dealt, jax.lax.psum(others, AXIS))


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


def _each(batch: Placed) -> jax.Array:
    """[batches, words] of a device's share, whichever way it was mapped; traced."""
    return batch.words.reshape(-1, batch.words.shape[-1])


def _apart(words: jax.Array, form: Form) -> Any:
    """The inverse of `join`, of a device's share; traced."""
    arrays, first = [], 0
    for shape, dtype in form.arrays:
        last = first + math.prod(shape)
        part = words[first:last].reshape(shape)
        arrays.append(part != 0 if dtype.kind == "b" else jax.lax.bitcast_convert_type(part, dtype))
        first = last
    return jax.tree.unflatten(form.tree, arrays)


class Mapped:
    """`step(state, batch, table) -> (state, sums)` over all devices, the state donated."""

    def __init__(self, mapped: Any, how: str) -> None:
        self._mapped, self._how = mapped, how
        self._given = _widened if how == "shard_map" else lambda batch: batch

    def __call__(self, state: Any, batch: Any, table: Any) -> Any:
        return self._mapped(state, self._given(_placed(batch)), table)

    def lowered(self, state: Any, batch: Any, table: Any) -> Callable[[], Any]:
        """Traces the step for what will be called with the like of these, and gives what compiles it; the
        state may be abstract, with its shardings. A step that was not readied so compiles when it is called:
        as does a pmapped one on several processes, where pmap lowers arrays alone."""
        if self._how == "pmap" and jax.process_count() > 1:
            return lambda: None
        return self._mapped.lower(state, self._given(_placed(batch)), table).compile


def map_over_devices(step: Callable, how: str = "pmap", like: Any = None) -> Mapped:
    """`step` of one device's share, mapped.

    The batch is of `put`, or is put there and then: this process's share, [B / processes, ...]. Where
    several were put together, the step is taken on each in turn, and their sums are added up. `how` is
    "pmap", or "shard_map", which is the same function under `jit`: then what of a state is dealt to the
    devices is said by one `like` it, an abstract one will do. Without, it is replicated.
    """
    if how == "pmap":
        shares = (None, 0, None)
        mapped = jax.pmap(_in_turn(step), AXIS, in_axes=shares, out_axes=(None, None), donate_argnums=0)
        return Mapped(mapped, how)
    return Mapped(jitted_step(step, like), how)


def jitted_step(step: Callable, like: Any = None) -> Any:
    """What `map_over_devices` maps with "shard_map": a jitted function of a state, the `Placed` batches of
    all processes and a table, to be lowered without running it where they are abstract."""
    out = specs(like), PartitionSpec()
    return jax.jit(_over_shares(_in_turn(step), specs(like), out), donate_argnums=0)


def _in_turn(step: Callable) -> Callable:
    """`step` on each of the batches that a device was sent."""

    def on_share(state: Any, batch: Placed, table: Any) -> Any:
        def one(state: Any, words: jax.Array) -> Any:
            return step(state, _apart(words, batch.form), table)

        each = _each(batch)
        if len(each) == 1:
            return one(state, each[0])
        state, sums = jax.lax.scan(one, state, each)
        return state, jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), sums)

    return on_share


def _over_shares(on_share: Callable, of_state: Any, out: Any) -> Callable:
    """`on_share` on every device's share; `of_state` says how the state lies, `out` the outputs."""
    given = (of_state, PartitionSpec(AXIS), PartitionSpec())
    # With check_vma the gradients of a per-device step come n times too large.
    return jax.shard_map(on_share, mesh=mesh(), in_specs=given, out_specs=out, check_vma=False)


def map_queries(step: Callable, like: Any = None) -> Callable:
    """`step(params, batch, table) -> outputs` over all devices; nothing donated, outputs replicated. The
    batch is as in `map_over_devices`, and so is what of `params` is dealt: with one `like` it."""

    def on_share(params: Any, batch: Placed, table: Any) -> Any:
        (words,) = _each(batch)
        return step(params, _apart(words, batch.form), table)

    if like is None:
        mapped = jax.pmap(on_share, AXIS, in_axes=(None, 0, None), out_axes=None)
        return lambda params, batch, table: mapped(params, _placed(batch), table)
    jitted = jax.jit(_over_shares(on_share, specs(like), PartitionSpec()))
    return lambda params, batch, table: jitted(params, _widened(_placed(batch)), table)


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
