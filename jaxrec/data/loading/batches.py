"""Batches from a prepared dataset, through Grain: batch t is a function of (seed, t) and of nothing else.

Order is two-level, so that no permutation is as long as the dataset: blocks are permuted by
(seed, epoch), and rows inside a window of many blocks. A batch is one gather from the windows it lies
in, while the next window is being read. An epoch has floor(rows / batch) batches; the rows past them
differ from epoch to epoch.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import grain
import numpy as np

from jaxrec.core.batch import HostBatch, Packing
from jaxrec.core.errors import InputError
from jaxrec.data.loading.packing import Packer
from jaxrec.data.storage.dataset import BLOCK_ROWS, Rows

WINDOW_BLOCKS = 128


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class _Epoch(NamedTuple):
    """The blocks of an epoch in their order, and where each window of them starts."""

    blocks: np.ndarray  # [blocks]
    starts: np.ndarray  # [windows + 1] rows before a window


class _Window(NamedTuple):
    """Rows of a window, in their slot once `parts` are done."""

    slot: int
    order: np.ndarray  # [rows] in [0, rows), as batches take them
    parts: list[Future]  # each gives the lengths of its rows; None where batches are not sorted


class TrainBatches:
    """Batch t of a training stream; a Grain random-access source whose record is a batch.

    The global batch is dealt to `shares` devices, a multiple of `processes` (more processes than shares:
    as many shares): its row s is row s // shares of share s % shares. `process` of `processes` takes its
    contiguous range of the shares, each [batch / shares, words], one after the other. With `lengths`,
    which gives whole numbers [N] of packed words [N, words], the rows of every global batch ascend by
    it, so that each share holds the same mix; `pack` is then given this process's words and the lengths
    of the last share of all, and says how histories share rows. `ahead` is how many batches in a row may be
    made at a time, by several threads: where they are more, rows are read twice. Raises InputError where the
    dataset holds fewer rows than a batch, or where a batch does not divide by the shares.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int, steps: int, process: int = 0, processes: int = 1,
        lengths: Callable[[np.ndarray], np.ndarray] | None = None, shares: int = 1,
        pack: Callable[[np.ndarray, np.ndarray], Packing | None] | None = None, ahead: int = 1,
    ):  # fmt: skip
        if rows.rows < batch_size:
            raise InputError(
                f"train.batch_size={batch_size} is more than the dataset's {rows.rows} training examples"
            )
        shares = max(shares, processes)
        if batch_size % shares:
            raise InputError(f"train.batch_size={batch_size} must divide by the {shares} devices")
        self._rows, self._seed, self._steps, self._batch = rows, seed, steps, batch_size
        self._lengths, self._pack, self._shares = lengths, pack, shares
        self.steps_per_epoch = rows.rows // batch_size
        self._used = self.steps_per_epoch * batch_size
        place = np.arange(batch_size).reshape(-1, shares).T  # [shares, batch / shares]
        self._mine = np.split(place, processes)[process].reshape(-1)
        # Windows are read into slots that stay, since fresh pages cost half as much again as what is read
        # into them. What is made at a time lies in all but one, where the next is read; memory is taken as
        # slots are first filled.
        self._slot_rows = WINDOW_BLOCKS * BLOCK_ROWS
        self._slots = -(-ahead * batch_size // self._slot_rows) + 2
        self._words = np.empty((self._slots * self._slot_rows, rows.dtype.itemsize // 4), np.uint32)
        self._windows: dict[tuple[int, int], _Window] = {}  # the one used longest ago comes first
        self._epochs: dict[int, _Epoch] = {}
        self._readers = ThreadPoolExecutor(2, "window")
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, t: int) -> HostBatch:
        epoch, step = divmod(int(t), self.steps_per_epoch)
        # One thread at a time: they ask for the same windows, and no slot is refilled while one gathers.
        with self._lock:
            at, longest = self._places(epoch, step * self._batch, (step + 1) * self._batch)
            words = np.empty((len(at), self._words.shape[1]), np.uint32)
            # Nothing is clipped; in the mode "raise" numpy gathers into a copy.
            np.take(self._words, at, axis=0, out=words, mode="clip")
        packing = self._pack(words, longest) if self._pack else None
        return HostBatch(words, np.ones(len(words), bool), packing)

    def _places(self, epoch: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Where this process's rows of the global batch [first, last) of an epoch lie, once they do, and
        the lengths of the last share of all."""
        starts = self._epoch(epoch).starts
        begin, end = np.searchsorted(starts, first, side="right") - 1, np.searchsorted(starts, last)
        windows = [self._window(epoch, w) for w in range(begin, end)]
        if len(windows) < self._slots:  # one is free to read ahead
            self._window(*((epoch, end) if starts[end] < self._used else (epoch + 1, 0)))
        places, lengths = [], []
        for start, window in zip(starts[begin:end], windows, strict=True):
            rows = window.order[max(first - start, 0) : last - start]
            places.append(window.slot * self._slot_rows + rows)
            found = [part.result() for part in window.parts]
            if self._lengths:
                lengths.append(np.concatenate(found)[rows])
        at = np.concatenate(places)
        if not self._lengths:
            return at[self._mine], np.empty(0, np.uint8)
        of_rows = np.concatenate(lengths)
        order = np.argsort(of_rows, kind="stable")
        return at[order][self._mine], of_rows[order][self._shares - 1 :: self._shares]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            blocks = _generator(self._seed, epoch).permutation(self._rows.blocks)
            ends = np.cumsum(self._rows.block_rows()[blocks])
            starts = np.concatenate([[0], ends[WINDOW_BLOCKS - 1 : -1 : WINDOW_BLOCKS], ends[-1:]])
            latest = dict(list(self._epochs.items())[-1:])
            self._epochs = {**latest, epoch: _Epoch(blocks, starts)}
        return self._epochs[epoch]

    def _window(self, epoch: int, w: int) -> _Window:
        """A window which is in its slot or on its way there."""
        window = self._windows.pop((epoch, w), None)
        if window is None:
            slot = len(self._windows)
            if slot == self._slots:
                oldest = self._windows.pop(next(iter(self._windows)))
                wait(oldest.parts)
                slot = oldest.slot
            blocks = self._epoch(epoch).blocks[w * WINDOW_BLOCKS : (w + 1) * WINDOW_BLOCKS]
            ends = np.cumsum(self._rows.block_rows()[blocks])
            words = self._words[slot * self._slot_rows :][: ends[-1]]
            middle = len(blocks) // 2  # there are two readers
            cut = ends[middle - 1] if middle else 0
            halves = ((blocks[:middle], words[:cut]), (blocks[middle:], words[cut:]))
            parts = [self._readers.submit(self._read, *half) for half in halves if len(half[0])]
            window = _Window(slot, _generator(self._seed, epoch, w).permutation(ends[-1]), parts)
        self._windows[epoch, w] = window
        return window

    def _read(self, blocks: np.ndarray, out: np.ndarray) -> np.ndarray | None:
        """Reads blocks into their place; the lengths of their rows."""
        self._rows.read_into(blocks, out)
        return self._lengths(out) if self._lengths else None


class BatchGroups:
    """A training stream from batch `start` on, `size` batches to a record, a list: one dispatch's.

    An epoch's last record holds what is left of it, and so does the run's: both end where they would
    batch by batch. Records are the same wherever one starts, but for the first, which may begin late.
    """

    def __init__(self, batches: TrainBatches, size: int, start: int = 0):
        self._batches, self._size, self._start = batches, size, start
        self._per_epoch = -(-batches.steps_per_epoch // size)
        self._first = self._holding(start)

    def _holding(self, t: int) -> int:
        """The record that batch t is in, counted from the run's first."""
        epoch, step = divmod(t, self._batches.steps_per_epoch)
        return epoch * self._per_epoch + step // self._size

    def __len__(self) -> int:
        last = len(self._batches) - 1
        return self._holding(last) + 1 - self._first if self._start <= last else 0

    def __getitem__(self, i: int) -> list[HostBatch]:
        epoch, place = divmod(self._first + int(i), self._per_epoch)
        per_epoch = self._batches.steps_per_epoch
        begin = epoch * per_epoch + place * self._size
        end = min(begin + self._size, (epoch + 1) * per_epoch, len(self._batches))
        return [self._batches[t] for t in range(max(begin, self._start), end)]


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


class PackedEvalBatches:
    """Every row once, histories packed, for a process that is alone: each batch a systematic sample of the
    split by length, so that one plan serves them all, its rows ascending and dealt to `shares` devices."""

    def __init__(self, rows: Rows, batch_size: int, shares: int, packer: Packer):
        self._words, self._batch, self._shares = rows.read(np.arange(rows.blocks)), batch_size, shares
        lengths = packer.lengths(self._words)
        self._order = np.argsort(lengths, kind="stable")
        of_rows = np.append(lengths, 0).astype(lengths.dtype)  # the last: of padding, whose place is -1
        # The longest of every batch, place by place: a little more room than any one needs.
        longest = np.max([of_rows[self._places(t)] for t in range(len(self))], axis=0)
        self._longest = longest[shares - 1 :: shares]
        self._pack = packer.cover(self._longest)

    def __len__(self) -> int:
        return -(-len(self._words) // self._batch)

    def _places(self, t: int) -> np.ndarray:
        """[batch] rows of batch t by length; -1, which stands before them, for padding."""
        at = self._order[int(t) :: len(self)]
        return np.concatenate([np.full(self._batch - len(at), -1), at])

    def __getitem__(self, t: int) -> HostBatch:
        dealt = self._places(t).reshape(-1, self._shares).T.reshape(-1)
        words = self._words[dealt]
        words[dealt < 0] = 0
        return HostBatch(words, dealt >= 0, self._pack(words, self._longest), dealt)


def stream(
    batches: TrainBatches | BatchGroups | EvalBatches | PackedEvalBatches,
    start: int = 0,
    prefetch: int = 2,
    then: Callable[[Any], Any] = lambda record: record,
) -> Iterator[Any]:
    """What `then` makes of records from `start` on, read ahead by `prefetch` threads, which also call it.
    Resuming is starting at the step."""
    dataset = grain.MapDataset.source(batches)[start:].map(then)
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    return iter(dataset.to_iter_dataset(options))
