"""Batches of a prepared dataset: batch t is a function of (seed, t) alone.

Batches are read through Grain, in the order of `row_order`. A batch is one gather from the windows that
contain its rows, while the next window is being read.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from jaxrec.core.batch import HostBatch, Packing
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.row_order import ONE_SHARD, RowOrder, Shards
from jaxrec.data.storage.dataset import BLOCK_ROWS, Rows


class TrainingSource(Protocol):
    """Random-access source of training batches; record t is batch t."""

    steps_per_epoch: int

    def __len__(self) -> int:
        """Return the number of batches of the run."""

    def __getitem__(self, t: int) -> Any:
        """Return batch t of this process."""


class _Window(NamedTuple):
    """Window of blocks in a slot of the row buffer, being read or complete.

    The rows are complete once all `reads` are done.
    """

    slot: int
    order: np.ndarray  # [rows] permutation of [0, rows): the order in which batches take the rows
    reads: list[Future]  # the result is the lengths of the rows read; None where batches are not sorted


class TrainBatches:
    """Training batches: a Grain random-access source whose record t is batch t.

    The global batch is distributed over devices and processes as `RowOrder` has it.

    Args:
        rows: Rows of the training split.
        batch_size: Examples of the global batch.
        seed: Seed of the order of rows.
        steps: Number of batches.
        shards: Devices and processes.
        lengths: Returns whole numbers [N] for packed words [N, words]. The rows of every global batch are
            then sorted by ascending length, so that each shard holds the same mix of lengths.
        pack: Called with the words of this process and the lengths of the last shard of the global batch;
            returns how histories share rows. Requires `lengths`.
        ahead: Number of consecutive batches that several threads may make at a time. Where threads make
            more, rows are read twice.

    Raises:
        InputError: The dataset has fewer rows than a batch, or the batch does not divide by the shards.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int, steps: int, shards: Shards = ONE_SHARD,
        lengths: Callable[[np.ndarray], np.ndarray] | None = None,
        pack: Callable[[np.ndarray, np.ndarray], Packing | None] | None = None, ahead: int = 1,
    ):  # fmt: skip
        self.order = RowOrder(rows.block_rows(), batch_size, seed, shards)
        self.steps_per_epoch = self.order.steps_per_epoch
        self._rows, self._steps, self._lengths, self._pack = rows, steps, lengths, pack
        # Slots are reused: fresh memory pages add half of the time of a read. The batches made at a time use
        # all slots but one, into which the next window is read. Memory is allocated when a slot is first
        # filled.
        self._slot_rows = self.order.blocks_per_window * BLOCK_ROWS
        self._slots = -(-ahead * batch_size // self._slot_rows) + 2
        self._words = np.empty((self._slots * self._slot_rows, rows.dtype.itemsize // 4), np.uint32)
        self._windows: dict[tuple[int, int], _Window] = {}  # least recently used first
        self._readers = ThreadPoolExecutor(2, "window")
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, t: int) -> HostBatch:
        # One thread at a time: threads share windows, and no slot may be refilled during a gather.
        with self._lock:
            slot_rows, longest = self._batch_rows(t)
            words = np.empty((len(slot_rows), self._words.shape[1]), np.uint32)
            # No index is out of range; with mode="raise" NumPy gathers into a copy first.
            np.take(self._words, slot_rows, axis=0, out=words, mode="clip")
        packing = self._pack(words, longest) if self._pack else None
        return HostBatch(words, np.ones(len(words), bool), packing)

    def _batch_rows(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the rows of batch t and locate this process's rows.

        Returns:
            Indices into the row buffer, and the lengths of the last shard of the global batch (empty where
            batches are not sorted).
        """
        epoch, slices = self.order.slices(t)
        windows = [self._window(epoch, part.window) for part in slices]
        if len(windows) < self._slots:  # a slot is free: read ahead
            self._window(*self.order.after(epoch, slices[-1].window))
        slot_rows, lengths = [], []
        for part, window in zip(slices, windows, strict=True):
            rows = window.order[part.first : part.last]
            slot_rows.append(window.slot * self._slot_rows + rows)
            window_lengths = [read.result() for read in window.reads]
            if self._lengths:
                lengths.append(np.concatenate(window_lengths)[rows])
        global_lengths = np.concatenate(lengths) if self._lengths else None
        rows, longest = self.order.by_length(np.concatenate(slot_rows), global_lengths)
        return self.order.of_process(rows), longest

    def _window(self, epoch: int, w: int) -> _Window:
        """Return a window, starting its reads if it has no slot yet."""
        window = self._windows.pop((epoch, w), None)
        if window is None:
            slot = len(self._windows)
            if slot == self._slots:
                oldest = self._windows.pop(next(iter(self._windows)))
                wait(oldest.reads)
                slot = oldest.slot
            blocks = self.order.window_blocks(epoch, w)
            ends = np.cumsum(self._rows.block_rows()[blocks])
            words = self._words[slot * self._slot_rows :][: ends[-1]]
            middle = len(blocks) // 2  # one half for each of the two reader threads
            cut = ends[middle - 1] if middle else 0
            halves = ((blocks[:middle], words[:cut]), (blocks[middle:], words[cut:]))
            reads = [self._readers.submit(self._read, *half) for half in halves if len(half[0])]
            window = _Window(slot, self.order.permutation(epoch, w), reads)
        self._windows[epoch, w] = window
        return window

    def _read(self, blocks: np.ndarray, out: np.ndarray) -> np.ndarray | None:
        """Read blocks into `out` and return the lengths of their rows."""
        self._rows.read_into(blocks, out)
        return self._lengths(out) if self._lengths else None


class BatchGroups:
    """Lists of `size` consecutive training batches, one per call of several steps.

    The last list of an epoch, and of the run, holds the remaining batches, so that both end at the same
    batch as without groups. Lists do not depend on `start`, except that the first may lack its first batches.

    Args:
        batches: Batches of the run.
        size: Batches of a list, the steps per call.
        start: First batch, as a step of the run.
    """

    def __init__(self, batches: TrainingSource, size: int, start: int = 0):
        self._batches, self._size, self._start = batches, size, start
        self._per_epoch = -(-batches.steps_per_epoch // size)
        self._first = self._group_of(start)

    def _group_of(self, t: int) -> int:
        """Return the index of the list with batch t, counted from the run's start."""
        epoch, step = divmod(t, self._batches.steps_per_epoch)
        return epoch * self._per_epoch + step // self._size

    def __len__(self) -> int:
        last = len(self._batches) - 1
        return self._group_of(last) + 1 - self._first if self._start <= last else 0

    def __getitem__(self, i: int) -> list[Any]:
        epoch, group = divmod(self._first + int(i), self._per_epoch)
        per_epoch = self._batches.steps_per_epoch
        begin = epoch * per_epoch + group * self._size
        end = min(begin + self._size, (epoch + 1) * per_epoch, len(self._batches))
        return [self._batches[t] for t in range(max(begin, self._start), end)]


class EvalBatches:
    """Evaluation batches: every row once, in order, without dropping the tail.

    A record is a `HostBatch` of [B / processes, words] uint32. The last batch is padded; `HostBatch.valid` is
    False for padding.
    """

    def __init__(self, rows: Rows, batch_size: int, process: int = 0, processes: int = 1):
        self._rows, self._batch = rows, batch_size
        self._process_batch = batch_size // processes
        self._offset = process * self._process_batch

    def __len__(self) -> int:
        return -(-self._rows.rows // self._batch)

    def __getitem__(self, t: int) -> HostBatch:
        first = int(t) * self._batch + self._offset
        last = max(min(first + self._process_batch, self._rows.rows), first)
        blocks = np.arange(first // BLOCK_ROWS, -(-last // BLOCK_ROWS)) if last > first else np.arange(0)
        words = self._rows.read(blocks)[first - first // BLOCK_ROWS * BLOCK_ROWS :][: last - first]
        out = np.zeros((self._process_batch, words.shape[1]), np.uint32)
        out[: len(words)] = words
        valid = np.arange(self._process_batch) < len(words)
        index = np.where(valid, first + np.arange(self._process_batch), -1)
        return HostBatch(self._rows.add_words(out, index), valid)


class PackedEvalBatches:
    """Evaluation batches with packed histories, for a single process: every row once.

    Each batch is a systematic sample of the split sorted by length, so that one packing plan fits all
    batches. The rows of a batch ascend by length and are distributed round robin over `shards` devices.
    """

    def __init__(self, rows: Rows, batch_size: int, shards: int, packer: Packer):
        self._words, self._batch, self._shards = rows.read(np.arange(rows.blocks)), batch_size, shards
        self._rows = rows
        lengths = packer.lengths(self._words)
        self._order = np.argsort(lengths, kind="stable")
        # The last entry is for padding, index -1.
        padded_lengths = np.append(lengths, 0).astype(lengths.dtype)
        # The maximum over batches at each index: slightly more room than any single batch needs.
        longest = np.max([padded_lengths[self._batch_rows(t)] for t in range(len(self))], axis=0)
        self._longest = longest[shards - 1 :: shards]
        self._pack = packer.cover(self._longest)

    def __len__(self) -> int:
        return -(-len(self._words) // self._batch)

    def _batch_rows(self, t: int) -> np.ndarray:
        """Return the rows [batch] of batch t by ascending length.

        Padding rows are -1 and come first.
        """
        batch = self._order[int(t) :: len(self)]
        return np.concatenate([np.full(self._batch - len(batch), -1), batch])

    def __getitem__(self, t: int) -> HostBatch:
        order = self._batch_rows(t).reshape(-1, self._shards).T.reshape(-1)
        words = self._words[order]
        words[order < 0] = 0
        packing = self._pack(words, self._longest)
        return HostBatch(self._rows.add_words(words, order), order >= 0, packing, order)


def stream(
    batches: TrainingSource | BatchGroups | EvalBatches | PackedEvalBatches,
    start: int = 0,
    prefetch: int = 2,
    then: Callable[[Any], Any] = lambda record: record,
) -> Iterator[Any]:
    """Iterate over `then(record)` of a source, read ahead by threads.

    A resumed stream equals the original one: pass the step as `start`.

    Args:
        batches: Random-access source of records.
        start: First record.
        prefetch: Number of threads, and of records read ahead.
        then: Called in these threads on each record.

    Returns:
        An iterator over the results, in the order of the records.
    """
    dataset = grain.MapDataset.source(batches)[start:].map(then)
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))
