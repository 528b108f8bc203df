"""Training batches by row index, for rows that the devices hold.

The batches have the rows, the order and the packing of `TrainBatches`, bit for bit. What the host does for a
batch is to look up lengths and to plan the packing; the devices look up the rows and pack their titles.
"""

import threading

import numpy as np

from jaxrec.core.batch import IndexBatch, PackingPlan
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import RowOrder

_CACHED_WINDOWS = 4  # a batch may cross windows, and several threads make batches at a time


class IndexedBatches:
    """Training batches by row index: record t is batch t, as in `TrainBatches`.

    Args:
        order: Order of the rows.
        steps: Number of batches.
        local_devices: Devices of this process.
        packer: Packer of the histories, fitted; None: each history has its own row.
        lengths: [rows] uint8 lengths of all rows, as `Packer.lengths`; required with a packer.
    """

    def __init__(
        self, order: RowOrder, steps: int, local_devices: int,
        packer: Packer | None = None, lengths: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._order, self._steps, self._copies = order, steps, local_devices
        self._first_rows = np.cumsum(order.block_rows) - order.block_rows
        self._packer, self._lengths = packer, lengths
        self.steps_per_epoch = order.steps_per_epoch
        self._windows: dict[tuple[int, int], np.ndarray] = {}  # least recently used first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, t: int) -> IndexBatch:
        with self._lock:
            epoch, slices = self._order.slices(t)
            parts = [self._window_rows(epoch, part.window)[part.first : part.last] for part in slices]
        rows = np.concatenate(parts)
        lengths = None if self._lengths is None else self._lengths[rows]
        rows, longest = self._order.by_length(rows, lengths)
        plan = self._packer.plan(longest) if self._packer else None
        valid = np.ones(self._order.process_batch, bool)
        if plan is not None:
            plan = PackingPlan(tuple(np.tile(start, self._copies) for start in plan.starts))
        return IndexBatch(np.tile(self._order.of_shards(rows), self._copies), valid, plan)

    def _window_rows(self, epoch: int, w: int) -> np.ndarray:
        """Return the rows [rows] int32 of a window, in the order in which batches take them."""
        rows = self._windows.pop((epoch, w), None)
        if rows is None:
            blocks = self._order.window_blocks(epoch, w)
            sizes = self._order.block_rows[blocks]
            starts = np.repeat(self._first_rows[blocks] - (np.cumsum(sizes) - sizes), sizes)
            stored = (starts + np.arange(sizes.sum())).astype(np.int32)
            rows = stored[self._order.permutation(epoch, w)]
            if len(self._windows) == _CACHED_WINDOWS:
                self._windows.pop(next(iter(self._windows)))
        self._windows[epoch, w] = rows
        return rows
