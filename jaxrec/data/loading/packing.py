"""Histories packed several to a row, so that short ones pay for no padding: worked out on the host.

The mean history shows six titles or so where a model reads twenty. Rows of `window` places are filled
with whole histories, and the model keeps each to itself. Examples of a batch ascend by length and are
dealt round robin to its shares, so example j of the last share is as long as any share's j-th: one plan,
made for that share, holds every share's examples, and every process makes the same plan.
"""

import math
from functools import reduce

import numpy as np

from jaxrec.core.batch import Packing
from jaxrec.core.ids import PAD

_SPREADS = 3.0  # of a batch's mean length, that the rows of a share leave room for
_LOSS = 1.01  # rows that a plan takes over the fewest there could be
# A kernel's gradient is a product over all places, which a GPU cuts into parts, and copies what goes into it
# where the places do not divide: a twelfth of a step on an H200. A few rows more are less work.
_PLACES, _MORE = 512, 0.05


def plan(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row [N] and first place [N] of histories of these lengths [N] in rows of `width`, and the rows used.

    The longest first, then the longest that still fits, for all examples of a length at once. A history
    of length 0 takes no place; its row is 0.
    """
    count = np.bincount(lengths, minlength=width + 1)
    left = [0, *count[1:].tolist()]
    found: list[tuple[int, int, int, int]] = []  # of a length so many, from a row on, at a place
    used = 0
    while any(left):
        room, pattern, free = width, [], list(left)
        while fitting := [n for n in range(room, 0, -1) if free[n]]:
            pattern.append(fitting[0])
            free[fitting[0]] -= 1
            room -= fitting[0]
        times = min(left[n] // pattern.count(n) for n in set(pattern))
        first = 0
        for n in pattern:
            found.append((n, times, used, first))
            left[n] -= times
            first += n
        used += times
    found.sort(key=lambda run: run[0])
    _, times, rows, firsts = np.array(found, np.int64).reshape(-1, 4).T
    shown = np.argsort(lengths, kind="stable")[count[0] :]
    row, at = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    row[shown], at[shown] = _ranges(rows, times), np.repeat(firsts, times)
    return row, at, used


class Packer:
    """Packs what a model of these windows is shown of rows of `dtype`. Windows descend, each once.

    `rows` are the packed rows that stand for a share's examples, for each window: of `fit` or of `cover`.
    """

    def __init__(self, dtype: np.dtype, windows: tuple[int, ...], keeps_abandoned: bool) -> None:
        self._dtype, self._windows, self._keeps_abandoned = dtype, windows, keeps_abandoned
        self.rows: tuple[int, ...] = (0,) * len(windows)
        self._planned: tuple[np.ndarray, tuple] = np.empty(0, np.uint8), ()

    def fit(self, sample: np.ndarray, batch_size: int, shares: int) -> "Packer":
        """Room for batches of a dataset like `sample` [N, words]: one that needs more is not packed."""
        lengths, share = self.lengths(sample), batch_size // shares
        self.rows = tuple(_rows(np.minimum(lengths, w), w, share, batch_size) for w in self._windows)
        return self

    def cover(self, longest: np.ndarray) -> "Packer":
        """Room for just the batches whose lengths, the last share's, are nowhere above `longest`."""
        self.rows = tuple(max(used, 1) for _, _, used in self._plans(longest))
        return self

    def _plans(self, longest: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, int], ...]:
        """The plan of each window, kept while the lengths stay as they are."""
        before, plans = self._planned
        if not np.array_equal(before, longest):
            plans = tuple(plan(np.minimum(longest, w), w) for w in self._windows)
            self._planned = longest, plans  # at once, for several threads ask
        return plans

    def _kept(self, words: np.ndarray) -> np.ndarray:
        """[N, history] bool: the titles a history shows."""
        rows = words.view(self._dtype)[:, 0]
        kept = rows["history_title"] != PAD
        return kept if self._keeps_abandoned else kept & (rows["history_abandoned"] == 0)

    def lengths(self, words: np.ndarray) -> np.ndarray:
        """[N] how many titles each history shows, the longest window at most."""
        return np.minimum(_count(self._kept(words)), self._windows[0]).astype(np.uint8)

    def __call__(self, words: np.ndarray, longest: np.ndarray) -> Packing | None:
        """This process's shares, one after the other, from their words; `longest` are the lengths of the
        last share of all. None where a plan needs more rows than there are."""
        plans = self._plans(longest)
        if any(used > rows for (_, _, used), rows in zip(plans, self.rows, strict=True)):
            return None
        kept = self._kept(words)
        share, history, width = len(longest), kept.shape[1], self._windows[0]
        laps = len(words) // share
        total, source = _count(kept), np.flatnonzero(kept).astype(np.int32)
        # A history's titles lie side by side, oldest first, wherever it is packed.
        shown, starts = [], []
        for (row, first, _), rows, w in zip(plans, self.rows, self._windows, strict=True):
            shown.append(np.minimum(total, w))
            starts.append((np.arange(laps)[:, None] * rows * w + row * w + first).reshape(-1))
        source = source[_ranges(np.cumsum(total) - shown[0], shown[0])]
        of_share = np.repeat(np.arange(laps, dtype=np.int32), share)
        newest = (
            np.cumsum(shown[0]) - 1 - of_share * (share * history * width)
        )  # less what is of shares before
        place = np.repeat(newest.astype(np.int32), shown[0]) - np.arange(len(source), dtype=np.int32)
        titles = np.full(laps * self.rows[0] * width, share * history * width, np.int32)
        titles[_ranges(starts[0], shown[0])] = source * np.int32(width) + place
        shorter = []
        for start, n, rows, w in zip(starts[1:], shown[1:], self.rows[1:], self._windows[1:], strict=True):
            index = np.full(laps * rows * w, self.rows[0] * width, np.int32)
            oldest = starts[0] - of_share * (self.rows[0] * width) + shown[0] - n
            index[_ranges(start, n)] = _ranges(oldest, n)
            shorter.append(index.reshape(laps * rows, w))
        return Packing(titles.reshape(laps * self.rows[0], width), tuple(shorter))


def _count(kept: np.ndarray) -> np.ndarray:
    """[N] how many of each row of bools [N, history] there are: ones counted by as wide a word as divides a
    row, in a tenth of the time that `sum` takes, and without Python's lock."""
    word = next(size for size in (8, 4, 2, 1) if kept.shape[1] % size == 0)
    of_words = np.bitwise_count(np.ascontiguousarray(kept).view(f"u{word}"))
    return reduce(np.add, of_words.T.astype(np.int32), np.zeros(len(kept), np.int32))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ..., as many as its length, of each in turn: one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat((starts - before).astype(np.int32), lengths) + np.arange(lengths.sum(), dtype=np.int32)


def _rows(lengths: np.ndarray, width: int, share: int, batch_size: int) -> int:
    """Packed rows for `share` examples of a batch: at most one for each, seldom too few."""
    mean = lengths.mean() + _SPREADS * lengths.std() / batch_size**0.5
    rows = int(np.ceil(_LOSS * share * mean / width)) + 1
    more = -rows % (_PLACES // math.gcd(_PLACES, width))
    return min(rows + more if more <= _MORE * rows else rows, share)
