"""Order of training rows: the rows of batch t are a function of (seed, t) alone.

Shuffling has two levels, so that no permutation is as long as the dataset: (seed, epoch) permutes the
blocks, and the rows are permuted within a window of many blocks. An epoch has floor(rows / batch size)
batches; the remaining rows, which no batch of the epoch contains, differ from epoch to epoch.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.errors import InputError

WINDOW_BLOCKS = 128


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class _Epoch(NamedTuple):
    """Block order of an epoch, with the first row of each window."""

    blocks: np.ndarray  # [blocks]
    starts: np.ndarray  # [windows + 1] rows before each window


class WindowSlice(NamedTuple):
    """Rows [first, last) of a window, in the order in which batches take its rows."""

    window: int
    first: int
    last: int


class Shards(NamedTuple):
    """Distribution of a global batch over devices, and the process whose rows are read."""

    devices: int = 1  # a multiple of `processes`, raised to `processes` where it is less
    process: int = 0  # index of this process
    processes: int = 1


ONE_SHARD = Shards()


class RowOrder:
    """Order in which the batches of a run take the rows of a split.

    The global batch is distributed round robin over n = `shards.devices` devices: row s of the global batch
    is row s // n of shard s % n. Each process takes a contiguous range of the shards, each
    [batch_size / n], one after another.

    Args:
        block_rows: [blocks] rows of each block of the split.
        batch_size: Examples of the global batch.
        seed: Seed of the order.
        shards: Devices and processes.

    Raises:
        InputError: There are fewer rows than a batch, or the batch does not divide by the shards.
    """

    def __init__(self, block_rows: np.ndarray, batch_size: int, seed: int, shards: Shards = ONE_SHARD):
        rows = int(block_rows.sum())
        if rows < batch_size:
            raise InputError(
                f"train.batch_size={batch_size} is more than the dataset's {rows} training examples; "
                f"allowed: at most {rows}, better a tenth of them (--config.train.batch_size=N)"
            )
        self._num_shards = max(shards.devices, shards.processes)
        if batch_size % self._num_shards:
            raise InputError(f"train.batch_size={batch_size} must divide by the {self._num_shards} devices")
        self.block_rows, self._batch, self._seed = block_rows, batch_size, seed
        self.blocks_per_window = WINDOW_BLOCKS
        self.steps_per_epoch = rows // batch_size
        self.epoch_rows = self.steps_per_epoch * batch_size
        rows_of_shard = np.arange(batch_size).reshape(-1, self._num_shards).T  # [shards, batch / shards]
        self._shard_order = rows_of_shard.reshape(-1)
        self._process_rows = np.split(rows_of_shard, shards.processes)[shards.process].reshape(-1)
        self.process_batch = len(self._process_rows)  # examples of this process in a global batch
        self._epochs: dict[int, _Epoch] = {}

    def epoch(self, epoch: int) -> _Epoch:
        """Return the block order of an epoch; the two latest epochs are cached."""
        if epoch not in self._epochs:
            blocks = _generator(self._seed, epoch).permutation(len(self.block_rows))
            ends = np.cumsum(self.block_rows[blocks])
            size = self.blocks_per_window
            starts = np.concatenate([[0], ends[size - 1 : -1 : size], ends[-1:]])
            kept = dict(list(self._epochs.items())[-1:])
            self._epochs = {**kept, epoch: _Epoch(blocks, starts)}
        return self._epochs[epoch]

    def window_blocks(self, epoch: int, window: int) -> np.ndarray:
        """Return the blocks [blocks] of a window, in the order in which they are stored in it."""
        return self.epoch(epoch).blocks[window * self.blocks_per_window :][: self.blocks_per_window]

    def permutation(self, epoch: int, window: int) -> np.ndarray:
        """Return the order [rows] in which batches take the rows of a window."""
        starts = self.epoch(epoch).starts
        return _generator(self._seed, epoch, window).permutation(starts[window + 1] - starts[window])

    def slices(self, t: int) -> tuple[int, list[WindowSlice]]:
        """Return the epoch of batch t and the parts of windows that make up its rows, in order."""
        epoch, step = divmod(int(t), self.steps_per_epoch)
        first, starts = step * self._batch, self.epoch(epoch).starts
        last = first + self._batch
        begin, end = np.searchsorted(starts, first, side="right") - 1, np.searchsorted(starts, last)
        return epoch, [
            WindowSlice(w, int(max(first - starts[w], 0)), int(min(last, starts[w + 1]) - starts[w]))
            for w in range(begin, end)
        ]

    def after(self, epoch: int, window: int) -> tuple[int, int]:
        """Return (epoch, window) of the window that batches take after this one."""
        is_last = self.epoch(epoch).starts[window + 1] >= self.epoch_rows
        return (epoch + 1, 0) if is_last else (epoch, window + 1)

    def by_length(self, rows: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Sort the rows of a global batch by ascending length.

        Args:
            rows: [batch] rows of the global batch.
            lengths: [batch] whole numbers, or None: the rows keep their order.

        Returns:
            The rows [batch], and the lengths of the last shard, [batch / shards]; empty without lengths.
        """
        if lengths is None:
            return rows, np.empty(0, np.uint8)
        order = np.argsort(lengths, kind="stable")
        return rows[order], lengths[order][self._num_shards - 1 :: self._num_shards]

    def of_process(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's rows [b] of a global batch, one shard after another."""
        return rows[self._process_rows]

    def of_shards(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows [B] of a global batch, one shard after another."""
        return rows[self._shard_order]
