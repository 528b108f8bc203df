"""Batches as one array of words per device: packing, transfer, unpacking.

A batch consists of many arrays. Without packing, each array would be a transfer of its own, started when the
step is called. Packing therefore joins the shard of every array for one device into one array of 32-bit
words. `transfer` sends the words before the step is called, and the mapped step unpacks them with slices
whose positions are known at compile time. Several batches can travel in one array of words. A device then
takes one step on each batch within a single call from the host.
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
    """Structure of the per-device shard of a batch, as `unpack` restores it.

    Attributes:
        treedef: Tree structure of the arrays of a batch.
        arrays: (shape, dtype) of each array's per-device shard.
    """

    treedef: Any
    arrays: tuple[tuple[tuple[int, ...], np.dtype], ...]


@partial(jax.tree_util.register_dataclass, data_fields=("words",), meta_fields=("spec",))
@dataclass(frozen=True)
class DeviceBatch:
    """Batches of one spec, packed into words; on the devices after `transfer`.

    Attributes:
        words: [local devices, batches, words] uint32.
        spec: Structure of a batch. The spec is static: a different spec compiles a different program.
    """

    words: Any
    spec: BatchSpec

    @property
    def steps(self) -> int:
        """Return the number of training steps, which is the number of batches."""
        return self.words.shape[1]


def batch_spec(batch: Any) -> BatchSpec:
    """Return the spec of the per-device shard of a batch.

    Args:
        batch: The batch of this process: a tree of arrays [B / processes, ...]. The first axis must be
            divisible by the number of local devices.
    """
    n = jax.local_device_count()
    leaves, treedef = jax.tree.flatten(batch)
    return BatchSpec(treedef, tuple(((len(x) // n, *x.shape[1:]), x.dtype) for x in leaves))


def pack(*batches: Any) -> DeviceBatch:
    """Pack the batches of this process into one host array of words.

    Args:
        *batches: Batches of one spec: trees of arrays [B / processes, ...] of bool or a four-byte dtype.

    Returns:
        Words [local devices, batches, words], in which the words of each device are contiguous.

    Raises:
        TypeError: The dtype of an array is neither bool nor four bytes wide.
    """
    n = jax.local_device_count()
    words_of_batches = [[_to_words(x).reshape(n, -1) for x in jax.tree.leaves(batch)] for batch in batches]
    words = np.concatenate([words for leaves in words_of_batches for words in leaves], axis=1)
    return DeviceBatch(words.reshape(n, len(batches), -1), batch_spec(batches[0]))


def _to_words(x: np.ndarray) -> np.ndarray:
    """Return an array as uint32 words; a bool takes a whole word."""
    if x.dtype.kind == "b":
        return x.astype(np.uint32)  # a whole word for each bool, so that every array starts at a word
    if x.dtype.itemsize != 4:
        raise TypeError(f"arrays of a batch must hold bools or numbers of four bytes, not {x.dtype}")
    return x.view(np.uint32)


def transfer(*batches: Any) -> DeviceBatch:
    """Start a single transfer of the batches of this process to its devices.

    Any thread may call this function. The arguments and errors are those of `pack`.
    """
    packed = pack(*batches)
    local = NamedSharding(mesh().local_mesh, PartitionSpec(AXIS))
    return DeviceBatch(jax.device_put(packed.words, local), packed.spec)


def transfer_group(batches: Sequence[Any], most: int) -> list[DeviceBatch]:
    """Transfer a full group of batches together, a partial group one by one.

    A full group holds `most` batches of one spec. Every other number of batches in one transfer would
    compile a program of its own, so partial and mixed groups are transferred batch by batch. The decision
    is the same on every process.
    """
    if len(batches) == most and len({batch_spec(batch) for batch in batches}) == 1:
        return [transfer(*batches)]
    return [transfer(batch) for batch in batches]


def device_words(batch: DeviceBatch) -> jax.Array:
    """Return the words [batches, words] of one device; traced by pmap or shard_map."""
    return batch.words.reshape(-1, batch.words.shape[-1])


def unpack(words: jax.Array, spec: BatchSpec) -> Any:
    """Unpack the words of one device into a per-device shard; inverse of `pack`.

    Args:
        words: Words [words] uint32 of one batch; traced.
        spec: The spec of the batch.
    """
    leaves, first = [], 0
    for shape, dtype in spec.arrays:
        last = first + math.prod(shape)
        leaf = words[first:last].reshape(shape)
        leaves.append(leaf != 0 if dtype.kind == "b" else jax.lax.bitcast_convert_type(leaf, dtype))
        first = last
    return jax.tree.unflatten(spec.treedef, leaves)


def ensure_transferred(batch: Any) -> DeviceBatch:
    """Return a transferred batch unchanged, and transfer a host batch."""
    return batch if isinstance(batch, DeviceBatch) else transfer(batch)


def as_global_batch(batch: DeviceBatch) -> DeviceBatch:
    """Combine the words of all processes into one global array, without a copy.

    Args:
        batch: A batch whose words [local devices, batches, words] are on the devices of this process.
    """
    return DeviceBatch(as_global_array(batch.words), batch.spec)


def as_global_array(local: jax.Array) -> jax.Array:
    """Combine the arrays [local devices, ...] of all processes into one [devices, ...], without a copy."""
    shards = [shard.data for shard in local.addressable_shards]
    sharding, shape = NamedSharding(mesh(), PartitionSpec(AXIS)), (device_count(), *local.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)
