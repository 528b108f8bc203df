"""Training rows in the memory of the devices: `train.resident`.

Reading, gathering and transferring the rows of a batch costs the host more than an accelerator's step
(benchmarks/results/h200.md). Where the rows fit, each device therefore holds an equal range of them, and a
batch is transferred as row indices. The devices gather the rows themselves (`runtime.parallel_step`), and
pack their histories.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.data.loading.indexed_batches import IndexedBatches
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import RowOrder
from jaxrec.data.storage.dataset import BLOCK_ROWS, Rows
from jaxrec.runtime.mesh import AXIS, device_count, mesh
from jaxrec.runtime.multihost import all_reduce_max, is_first_process
from jaxrec.runtime.parallel_step import DeviceRows
from jaxrec.tasks.inputs.device_packing import DevicePacking

# Largest fraction of a device's memory that "auto" takes. State, activations and transferred batches of
# configs/smoe.py:paper at batch 32,768 take less than half of an H200.
_MOST_MEMORY = 0.25
_CHUNK_BLOCKS = 128  # read and transferred at a time, 45 MB of configs/smoe.py:paper
_READERS = 4  # threads that read chunks


def device_memory() -> int | None:
    """Return the bytes of memory of the smallest local device; None where it is not known."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [entry["bytes_limit"] for entry in stats if "bytes_limit" in entry]
    return min(limits) if len(limits) == len(stats) else None


def keeps_rows_on_devices(config: Config, rows: Rows) -> bool:
    """Return True if the devices hold the training rows: `train.resident`.

    All processes must call this function together; the result is the same on all of them.

    Args:
        config: The run's config.
        rows: Rows of the training split.

    Raises:
        InputError: The rows must be on the devices and do not fit.
    """
    if config.train.resident == "never":
        return False
    needed, limit = _rows_per_device(rows) * rows.dtype.itemsize, device_memory()
    most = _MOST_MEMORY if config.train.resident == "auto" else 1.0
    fits = config.train.resident == "always" if limit is None else needed <= most * limit
    (refusals,) = all_reduce_max(int(not fits))
    if refusals and config.train.resident == "always":
        raise InputError(
            f"train.resident='always': the training rows take {needed:,} bytes on each of {device_count()} "
            f"devices, the smallest device has {limit or 0:,}; allowed: 'auto' or 'never', which read "
            "rows as they are needed"
        )
    return not refusals


class ResidentRows(NamedTuple):
    """Rows on the devices of this process, and what the host needs to make batches of them.

    Attributes:
        words: [local devices, rows per device, words] uint32, a range of the rows on each device.
        lengths: [rows] uint8 lengths of all histories, as `Packer.lengths`; None without a packer.
    """

    words: jax.Array
    lengths: np.ndarray | None

    @classmethod
    def load(cls, rows: Rows, packer: Packer | None) -> "ResidentRows":
        """Read the rows of this process's devices, and the lengths of all rows if there is a packer.

        Args:
            rows: Rows of the training split.
            packer: Packer of the run.
        """
        size, width = _rows_per_device(rows), rows.dtype.itemsize // 4
        local = {d: device for d, device in enumerate(mesh().devices.flat) if device in jax.local_devices()}
        buffers = {
            d: jax.device_put(jnp.zeros((1, size, width), jnp.uint32), device) for d, device in local.items()
        }
        lengths = np.zeros(rows.rows, np.uint8) if packer else None
        for first, words in _chunks(rows, size, None if packer else set(local)):
            if packer and lengths is not None:
                lengths[first : first + len(words)] = packer.lengths(words)
            for d in local.keys() & set(_devices_of(first, len(words), size)):
                own = words[max(d * size - first, 0) : (d + 1) * size - first]
                at = np.int32(max(first - d * size, 0))
                buffers[d] = _write(buffers[d], jax.device_put(own, local[d]), at)
        sharding = NamedSharding(mesh().local_mesh, PartitionSpec(AXIS))
        shape = (len(buffers), size, width)
        on_devices = jax.make_array_from_single_device_arrays(shape, sharding, list(buffers.values()))
        if is_first_process():
            taken = size * rows.dtype.itemsize
            logging.info("%d training rows are on the devices, %d bytes on each", rows.rows, taken)
        return cls(on_devices, lengths)

    def on_devices(self, packer: Packer | None) -> DeviceRows:
        """Return the rows for the steps.

        Args:
            packer: The packer that `load` was called with, fitted.
        """
        if packer is None:
            return DeviceRows(self.words)
        pack = DevicePacking(packer.dtype, packer.windows, packer.rows, packer.keeps_abandoned)
        return DeviceRows(self.words, pack)

    def batches(self, order: RowOrder, steps: int, packer: Packer | None) -> IndexedBatches:
        """Return the training batches of this process, by row index.

        Args:
            order: Order of the rows.
            steps: Number of batches.
            packer: The packer that `load` was called with, fitted.
        """
        return IndexedBatches(order, steps, jax.local_device_count(), packer, self.lengths)


def _rows_per_device(rows: Rows) -> int:
    """Return the rows that each device holds: whole blocks, so that a chunk is read once."""
    return -(-rows.blocks // device_count()) * BLOCK_ROWS


@partial(jax.jit, donate_argnums=0)
def _write(buffer: jax.Array, words: jax.Array, first: np.int32) -> jax.Array:
    """Write words [N, words] into a device's buffer [1, rows, words] from row `first` on."""
    return jax.lax.dynamic_update_slice(buffer, words[None], (0, first, 0))


def _devices_of(first: int, count: int, size: int) -> range:
    """Return the devices that hold the rows [first, first + count), `size` rows on each."""
    return range(first // size, (first + count - 1) // size + 1)


def _chunks(rows: Rows, size: int, devices: set[int] | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, words [N, words]) of the chunks of the split, in order, read ahead by threads.

    Args:
        rows: Rows of the training split.
        size: Rows per device.
        devices: Devices whose rows are read; None: all rows.
    """
    count = _CHUNK_BLOCKS * BLOCK_ROWS
    firsts = [
        block
        for block in range(0, rows.blocks, _CHUNK_BLOCKS)
        if devices is None or not devices.isdisjoint(_devices_of(block * BLOCK_ROWS, count, size))
    ]

    def read(block: int) -> tuple[int, np.ndarray]:
        return block * BLOCK_ROWS, rows.read(np.arange(block, min(block + _CHUNK_BLOCKS, rows.blocks)))

    with ThreadPoolExecutor(_READERS) as readers:
        waiting = [readers.submit(read, block) for block in firsts[:_READERS]]
        for block in [*firsts[_READERS:], *[None] * min(_READERS, len(firsts))]:
            yield waiting.pop(0).result()
            if block is not None:
                waiting.append(readers.submit(read, block))
