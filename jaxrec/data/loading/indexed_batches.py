"""Training batches by row index, for rows that the devices hold.

The batches have the rows, the order and the packing of `TrainBatches`, bit for bit. What the host does for a
batch is to look up lengths and to plan the packing.
"""

import threading
from typing import NamedTuple

import numpy as np

from jaxrec.core.batch import IndexBatch
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import RowOrder

_CACHED_WINDOWS = 4  # a batch may cross windows, and several threads make batches at a time


class RowLengths(NamedTuple):
    """Lengths and kept titles of every row of a split, for packing.

    Attributes:
        length: [rows] uint8 length of each history, as `Packer.lengths`.
        kept: [rows, ceil(history / 8)] uint8, the bits of `Packer.kept_titles`.
        history: Stored titles of a history.
    """

    length: np.ndarray
    kept: np.ndarray
    history: int

    @classmethod
    def empty(cls, rows: int, history: int) -> "RowLengths":
        """Return the arrays for `rows` rows, to be filled by `fill`."""
        return cls(np.zeros(rows, np.uint8), np.zeros((rows, -(-history // 8)), np.uint8), history)

    def fill(self, first: int, words: np.ndarray, packer: Packer) -> None:
        """Set the entries of the rows from `first` on.

        Args:
            first: Index of the first of these rows in the split.
            words: [N, words] uint32 rows of the dataset.
            packer: Packer of the run.
        """
        self.length[first : first + len(words)] = packer.lengths(words)
        self.kept[first : first + len(words)] = np.packbits(packer.kept_titles(words), axis=1)

    def kept_titles(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask [N, history] of the titles that the model reads of rows [N]."""
        return np.unpackbits(self.kept[rows], axis=1, count=self.history).view(bool)


class IndexedBatches:
    """Training batches by row index: record t is batch t, as in `TrainBatches`.

    Args:
        order: Order of the rows.
        steps: Number of batches.
        local_devices: Devices of this process.
        packer: Packer of the histories, fitted; None: each history has its own row.
        lengths: Lengths of all rows, required with a packer.
    """

    def __init__(
        self, order: RowOrder, steps: int, local_devices: int,
        packer: Packer | None = None, lengths: RowLengths | None = None,
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
        lengths = self._lengths.length[rows] if self._lengths else None
        rows, longest = self._order.by_length(rows, lengths)
        own, packing = self._order.of_process(rows), None
        if self._packer and self._lengths:
            packing = self._packer.pack(self._lengths.kept_titles(own), longest)
        return IndexBatch(
            np.tile(self._order.of_shards(rows), self._copies), np.ones(len(own), bool), packing
        )

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
