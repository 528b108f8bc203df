"""Packing of several histories into one row, to avoid padding.

The plan is computed on the host.

The mean history shows about six titles, while a model reads twenty. Rows of `window` positions are filled
with whole histories; attention masks keep the histories of a row apart. The examples of a batch are sorted
by ascending length and distributed round robin over its shards. Example j of the last shard is therefore at
least as long as example j of any other shard: a plan made for the last shard fits every shard, and every
process computes the same plan.
"""

import math
from functools import reduce

import numpy as np

from jaxrec.core.batch import Packing, PackingPlan
from jaxrec.core.ids import PAD

_MARGIN_STDS = 3.0  # standard deviations of a batch's mean length that the rows of a shard leave room for
_PACKING_OVERHEAD = 1.01  # rows of a plan relative to the lower bound (all titles / width)
# The gradient of a dense kernel is a product over all positions, which a GPU splits into chunks. Where the
# number of positions does not divide, the GPU copies the operands: a twelfth of a step on an H200. A few
# extra rows cost less.
_ALIGNED_POSITIONS, _MAX_EXTRA = 512, 0.05
_COARSE_STEPS = 8  # numbers of packed rows that a shard can have, where programs must not depend on the data


def plan(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Assign histories to rows of `width` positions.

    The longest history comes first, then the longest that fits into the rest of the row.

    All histories of one length are assigned at once. A history of length 0 takes no position; its row is 0.

    Args:
        lengths: [N] whole numbers in [0, width].
        width: Positions of a row.

    Returns:
        Row [N] of each history, first position [N] in that row, and the number of rows used.
    """
    count = np.bincount(lengths, minlength=width + 1)
    remaining = [0, *count[1:].tolist()]
    runs: list[tuple[int, int, int, int]] = []  # (length, histories, first row, position)
    used = 0
    while any(remaining):
        space, pattern, free = width, [], list(remaining)
        while fitting := [n for n in range(space, 0, -1) if free[n]]:
            pattern.append(fitting[0])
            free[fitting[0]] -= 1
            space -= fitting[0]
        repeats = min(remaining[n] // pattern.count(n) for n in set(pattern))
        first = 0
        for n in pattern:
            runs.append((n, repeats, used, first))
            remaining[n] -= repeats
            first += n
        used += repeats
    runs.sort(key=lambda run: run[0])
    _, repeats, rows, firsts = np.array(runs, np.int64).reshape(-1, 4).T
    nonempty = np.argsort(lengths, kind="stable")[count[0] :]
    row, start = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    row[nonempty], start[nonempty] = _concatenated_ranges(rows, repeats), np.repeat(firsts, repeats)
    return row, start, used


class Packer:
    """Packing of the histories of a batch, for a model that reads these windows.

    Call `fit` or `cover` before packing: they set `rows`, the packed rows per shard for each window.

    Args:
        dtype: dtype of the stored rows.
        windows: Window lengths, distinct, in descending order.
        keeps_abandoned: True where the model reads abandoned titles too.
    """

    def __init__(self, dtype: np.dtype, windows: tuple[int, ...], keeps_abandoned: bool) -> None:
        self.dtype, self.windows, self.keeps_abandoned = dtype, windows, keeps_abandoned
        self.rows: tuple[int, ...] = (0,) * len(windows)
        self._planned: tuple[np.ndarray, tuple] = np.empty(0, np.uint8), ()

    def fit(self, sample: np.ndarray, batch_size: int, shards: int, coarse: bool = False) -> "Packer":
        """Set the number of rows from a sample of the dataset.

        A batch that needs more rows is not packed.

        Args:
            sample: [N, words] uint32 rows of the dataset.
            batch_size: Examples of the global batch.
            shards: Devices that share the global batch.
            coarse: True: the number of rows is rounded up to eighths of the examples of a shard. A chain of
                daily updates then has few programs, which the compilation cache holds from earlier days.

        Returns:
            This packer.
        """
        lengths, shard_size = self.lengths(sample), batch_size // shards
        self.rows = tuple(
            _packed_rows(np.minimum(lengths, w), w, shard_size, batch_size) for w in self.windows
        )
        if coarse:
            step = -(-shard_size // _COARSE_STEPS)
            self.rows = tuple(min(-(-rows // step) * step, shard_size) for rows in self.rows)
        return self

    def cover(self, longest: np.ndarray) -> "Packer":
        """Set the number of rows to fit all batches with lengths up to `longest`.

        Args:
            longest: [examples per shard] ascending upper bounds of the lengths of the last shard.

        Returns:
            This packer.
        """
        self.rows = tuple(max(used, 1) for _, _, used in self._cached_plans(longest))
        return self

    def _cached_plans(self, longest: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, int], ...]:
        """Return the plan of each window; the plans of the latest lengths are cached."""
        planned_lengths, plans = self._planned
        if not np.array_equal(planned_lengths, longest):
            plans = tuple(plan(np.minimum(longest, w), w) for w in self.windows)
            self._planned = longest, plans  # one assignment: several threads read the cache
        return plans

    def _fits(self, longest: np.ndarray) -> bool:
        """Return True where the plan of every window has at most `self.rows` rows."""
        plans = self._cached_plans(longest)
        return all(used <= rows for (_, _, used), rows in zip(plans, self.rows, strict=True))

    def plan(self, longest: np.ndarray) -> PackingPlan | None:
        """Return the slots of the histories of every shard, from which a device packs its shards.

        Args:
            longest: [examples per shard] lengths of the last shard of the global batch.

        Returns:
            The plan for one device, or None where it needs more rows than `self.rows`.
        """
        if not self._fits(longest):
            return None
        plans = zip(self._cached_plans(longest), self.windows, strict=True)
        return PackingPlan(tuple((row * w + first).astype(np.int32) for (row, first, _), w in plans))

    def kept_titles(self, words: np.ndarray) -> np.ndarray:
        """Return a mask [N, history]: the titles that the model reads.

        Args:
            words: [N, words] uint32 rows of the dataset.
        """
        rows = words.view(self.dtype)[:, 0]
        kept = rows["history_title"] != PAD
        return kept if self.keeps_abandoned else kept & (rows["history_abandoned"] == 0)

    def lengths(self, words: np.ndarray) -> np.ndarray:
        """Return the length [N] uint8 of each history, at most the longest window.

        Args:
            words: [N, words] uint32 rows of the dataset.
        """
        return np.minimum(_count_true(self.kept_titles(words)), self.windows[0]).astype(np.uint8)

    def __call__(self, words: np.ndarray, longest: np.ndarray) -> Packing | None:
        """Pack the shards of this process.

        Args:
            words: [shards * examples per shard, words] uint32 rows, one shard after another.
            longest: [examples per shard] lengths of the last shard of the global batch.

        Returns:
            The packing, or None where a plan needs more rows than `self.rows`.
        """
        if not self._fits(longest):
            return None
        plans, kept = self._cached_plans(longest), self.kept_titles(words)
        shard_size, history, width = len(longest), kept.shape[1], self.windows[0]
        shards, slots = len(kept) // shard_size, self.rows[0] * width
        total, shard = _count_true(kept), np.repeat(np.arange(shards), shard_size)
        # The titles of a history are contiguous in its packed row, oldest first. Indices are int64: NumPy
        # indexes with them in half of the time that int32 takes.
        shown_counts, starts = [], []
        for (row, first, _), rows, w in zip(plans, self.rows, self.windows, strict=True):
            shown_counts.append(np.minimum(total, w))
            starts.append((np.arange(shards)[:, None] * rows * w + row * w + first).reshape(-1))
        shown = shown_counts[0]
        ends = np.cumsum(shown)
        source = np.flatnonzero(kept)
        if len(source) != ends[-1]:  # some history is longer than the window
            source = source[_concatenated_ranges(np.cumsum(total) - shown, shown)]
        # The number of newer titles, less the entries of preceding shards, which `source` counts.
        newest = (ends - 1 - shard * (shard_size * history * width)).astype(np.int32)
        newer = np.repeat(newest, shown) - np.arange(len(source), dtype=np.int32)
        titles = np.full(shards * slots, shard_size * history * width, np.int32)
        titles[_concatenated_ranges(starts[0], shown)] = source.astype(np.int32) * np.int32(width) + newer
        shorter = []
        for start, n, rows, w in zip(
            starts[1:], shown_counts[1:], self.rows[1:], self.windows[1:], strict=True
        ):
            index = np.full(shards * rows * w, slots, np.int32)
            oldest = starts[0] - shard * slots + shown - n
            index[_concatenated_ranges(start, n)] = _concatenated_ranges(oldest, n)
            shorter.append(index.reshape(shards * rows, w))
        return Packing(titles.reshape(shards * self.rows[0], width), tuple(shorter))


def _count_true(kept: np.ndarray) -> np.ndarray:
    """Return the number [N] of true values in each row of a mask [N, history].

    Bits are counted in the widest word that divides a row: a tenth of the time of `sum`, without Python's
    lock.
    """
    word = next(size for size in (8, 4, 2, 1) if kept.shape[1] % size == 0)
    per_word = np.bitwise_count(np.ascontiguousarray(kept).view(f"u{word}"))
    return reduce(np.add, per_word.T.astype(np.int32), np.zeros(len(kept), np.int32))


def _concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges start[i] to start[i] + length[i] - 1 over i, as int64."""
    ends = np.cumsum(lengths)
    ranges = np.repeat(starts + lengths - ends, lengths)
    ranges += np.arange(len(ranges))
    return ranges


def _packed_rows(lengths: np.ndarray, width: int, shard_size: int, batch_size: int) -> int:
    """Return packed rows for `shard_size` examples, at most one per example.

    The rows are rarely too few for a batch.
    """
    mean = lengths.mean() + _MARGIN_STDS * lengths.std() / batch_size**0.5
    rows = int(np.ceil(_PACKING_OVERHEAD * shard_size * mean / width)) + 1
    extra = -rows % (_ALIGNED_POSITIONS // math.gcd(_ALIGNED_POSITIONS, width))
    return min(rows + extra if extra <= _MAX_EXTRA * rows else rows, shard_size)
