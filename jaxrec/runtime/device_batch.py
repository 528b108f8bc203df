"""Batches as one array of words per device: packing, transfer, unpacking.

A batch is many arrays, and each would be a transfer of its own, begun when the step is called. So each
device's share of all of them is joined into one array of words, which `transfer` sends ahead of the step and
the mapped step takes apart: slices whose positions are known when it is compiled. Several batches travel as
one such array, and a device then takes a step on each before the host is asked again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.runtime.mesh import AXIS, device_count, mesh


class BatchSpec(NamedTuple):
    """What joined words are taken apart into."""

    tree: Any  # of a batch's arrays
    arrays: tuple[tuple[tuple[int, ...], np.dtype], ...]  # shape of a device's share, and dtype


@partial(jax.tree_util.register_dataclass, data_fields=("words",), meta_fields=("form",))
@dataclass(frozen=True)
class DeviceBatch:
    """Batches of one form on their devices."""

    words: Any  # [devices of this process, batches, words] uint32
    form: BatchSpec  # static: another one is another program

    @property
    def steps(self) -> int:
        """One for each batch."""
        return self.words.shape[1]


def batch_spec(batch: Any) -> BatchSpec:
    """Of this process's share of a batch: arrays [B / processes, ...], B divisible by the devices."""
    n = jax.local_device_count()
    arrays, tree = jax.tree.flatten(batch)
    return BatchSpec(tree, tuple(((len(x) // n, *x.shape[1:]), x.dtype) for x in arrays))


def pack(*batches: Any) -> DeviceBatch:
    """This process's share of batches of one form, their arrays of four-byte numbers or bools, as one array
    of the host; each device's part of it lies in one piece."""
    n = jax.local_device_count()
    parts = [[_words(x).reshape(n, -1) for x in jax.tree.leaves(batch)] for batch in batches]
    words = np.concatenate([part for batch in parts for part in batch], axis=1)
    return DeviceBatch(words.reshape(n, len(batches), -1), batch_spec(batches[0]))


def _words(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "b":
        return x.astype(np.uint32)  # a word each, so that every array starts on one
    if x.dtype.itemsize != 4:
        raise TypeError(f"a batch's arrays hold numbers of four bytes, or bools, not {x.dtype}")
    return x.view(np.uint32)


def transfer(*batches: Any) -> DeviceBatch:
    """This process's share of batches of one form, on its way to the devices in one transfer; of any
    thread."""
    joined = pack(*batches)
    local = NamedSharding(mesh().local_mesh, PartitionSpec(AXIS))
    return DeviceBatch(jax.device_put(joined.words, local), joined.form)


def transfer_group(batches: Sequence[Any], most: int) -> list[DeviceBatch]:
    """As one where they are `most` and of one form, else each alone: every number of them that is put
    together is a program of its own. The same on every process."""
    if len(batches) == most and len({batch_spec(batch) for batch in batches}) == 1:
        return [transfer(*batches)]
    return [transfer(batch) for batch in batches]


def device_words(batch: DeviceBatch) -> jax.Array:
    """[batches, words] of a device's share, whichever way it was mapped; traced."""
    return batch.words.reshape(-1, batch.words.shape[-1])


def unpack(words: jax.Array, form: BatchSpec) -> Any:
    """The inverse of `join`, of a device's share; traced."""
    arrays, first = [], 0
    for shape, dtype in form.arrays:
        last = first + math.prod(shape)
        part = words[first:last].reshape(shape)
        arrays.append(part != 0 if dtype.kind == "b" else jax.lax.bitcast_convert_type(part, dtype))
        first = last
    return jax.tree.unflatten(form.tree, arrays)


def ensure_transferred(batch: Any) -> DeviceBatch:
    return batch if isinstance(batch, DeviceBatch) else transfer(batch)


def as_global_batch(batch: DeviceBatch) -> DeviceBatch:
    """Of this process's devices, as an array of all processes; without a copy."""
    words = batch.words
    parts = [shard.data for shard in words.addressable_shards]
    where, shape = NamedSharding(mesh(), PartitionSpec(AXIS)), (device_count(), *words.shape[1:])
    return DeviceBatch(jax.make_array_from_single_device_arrays(shape, where, parts), batch.form)
