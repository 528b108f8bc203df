"""Batches from a prepared dataset, through Grain: batch t is a function of (seed, t) and of nothing else.

Order is two-level, so that no permutation is as long as the dataset: blocks are permuted by
(seed, epoch), and rows inside a window of many blocks. A batch is one gather from a window's words.
An epoch has floor(rows / batch) batches; the rows past them differ from epoch to epoch.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator

import grain
import numpy as np

from jaxrec.data.store import BLOCK_ROWS, Rows
from jaxrec.errors import InputError
from jaxrec.schema import HostBatch

WINDOW_BLOCKS = 128
_WINDOWS_KEPT = 3


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class TrainBatches:
    """Batch t of a training stream; a Grain random-access source whose record is a batch.

    `process` of `processes` takes its contiguous share of each global batch. Raises InputError where
    the dataset holds fewer rows than a batch.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int, steps: int, process: int = 0, processes: int = 1
    ):
        if rows.rows < batch_size:
            raise InputError(
                f"train.batch_size={batch_size} is more than the dataset's {rows.rows} training examples"
            )
        self._rows, self._seed, self._steps = rows, seed, steps
        self._batch, self._share = batch_size, batch_size // processes
        self._offset = process * self._share
        self.steps_per_epoch = rows.rows // batch_size
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, t: int) -> HostBatch:
        epoch, step = divmod(int(t), self.steps_per_epoch)
        first = step * self._batch + self._offset
        words = self._take(epoch, first, first + self._share)
        return HostBatch(words, np.ones(self._share, bool))

    def _take(self, epoch: int, first: int, last: int) -> np.ndarray:
        order = _generator(self._seed, epoch).permutation(self._rows.blocks)
        starts = np.concatenate(
            [[0], np.cumsum(self._rows.block_rows()[order])[WINDOW_BLOCKS - 1 :: WINDOW_BLOCKS]]
        )
        if starts[-1] < self._rows.rows:
            starts = np.append(starts, self._rows.rows)
        parts = []
        for w in range(np.searchsorted(starts, first, side="right") - 1, np.searchsorted(starts, last)):
            window = self._window(epoch, w, order)
            parts.append(window[max(first - starts[w], 0) : last - starts[w]])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _window(self, epoch: int, w: int, order: np.ndarray) -> np.ndarray:
        """The window's rows in their order. Under a lock: prefetching threads ask for the same ones."""
        with self._lock:
            found = self._windows.get((epoch, w))
            if found is None:
                words = self._rows.read(order[w * WINDOW_BLOCKS : (w + 1) * WINDOW_BLOCKS])
                found = words[_generator(self._seed, epoch, w).permutation(len(words))]
                self._windows[epoch, w] = found
                if len(self._windows) > _WINDOWS_KEPT:
                    self._windows.popitem(last=False)
            return found


class EvalBatches:
    """Every row once and in order; the last batch is padded and says so, so that no tail is dropped."""

    def __init__(self, rows: Rows, batch_size: int, process: int = 0, processes: int = 1):
        self._rows, self._batch = rows, batch_size
        self._share = batch_size // processes
        self._offset = process * self._share

    def __len__(self) -> int:
        return -(-self._rows.rows // self._batch)

    def __getitem__(self, t: int) -> HostBatch:
        first = int(t) * self._batch + self._offset
        last = max(min(first + self._share, self._rows.rows), first)
        blocks = np.arange(first // BLOCK_ROWS, -(-last // BLOCK_ROWS)) if last > first else np.arange(0)
        words = self._rows.read(blocks)[first - first // BLOCK_ROWS * BLOCK_ROWS :][: last - first]
        out = np.zeros((self._share, words.shape[1]), np.uint32)
        out[: len(words)] = words
        return HostBatch(out, np.arange(self._share) < len(words))


def stream(batches: TrainBatches | EvalBatches, start: int = 0, prefetch: int = 2) -> Iterator[HostBatch]:
    """Batches from `start` on, read ahead by `prefetch` threads. Resuming is starting at the step."""
    dataset = grain.MapDataset.source(batches)[start:]
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))
