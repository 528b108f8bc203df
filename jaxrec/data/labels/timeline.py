"""Search in events that are sorted by a key and their time."""

import numpy as np

_MOST_PACKED = 2**62
_STEPS = 2
_MAX = np.iinfo(np.int64).max


class Timeline:
    """Index of N events that are sorted by (key, time).

    A key and a time are packed into one whole number, so that one binary search gives the first event of a
    key at or after a time. Keys are numbered by their order, and times that span too much by their rank.
    Searches are faster for sorted keys and times.

    Attributes:
        starts: [K + 1] position of the first event of each of the K distinct keys, and N.
        group: [N] number of the event's key.
        packed: [N] key and time of the event in one whole number, ascending.
    """

    def __init__(self, key: np.ndarray, time: np.ndarray, sort_times: bool = False):
        """Index events.

        Args:
            key: [N] int64, ascending.
            time: [N] int64, ascending for each key.
            sort_times: True: times are in any order, and positions are those after sorting them.

        Raises:
            ValueError: The events are not sorted.
        """
        is_first = np.ones(len(key), bool)
        np.not_equal(key[1:], key[:-1], out=is_first[1:])
        first = np.flatnonzero(is_first)
        self._keys = key[first]
        self.starts = np.append(first, len(key))
        self.group = np.cumsum(is_first)
        self.group -= 1
        self._low, self._high = (int(time.min()), int(time.max())) if len(time) else (0, 0)
        self._ranks: np.ndarray | None = None
        self._span = self._high - self._low + 2  # one more than there are times: the end of a key
        if self._span * (len(first) + 1) >= _MOST_PACKED or self._high == _MAX:
            self._ranks = np.unique(time)
            self._span = len(self._ranks) + 1
        self._padded = np.full(len(key) + 1, _MAX)  # a position after all events holds a later one
        self.packed = self._padded[:-1]
        np.add(self._offset(time), self.group * self._span, out=self.packed)
        if sort_times:
            self.packed.sort()
        if np.any(self._keys[1:] < self._keys[:-1]) or np.any(self.packed[1:] < self.packed[:-1]):
            raise ValueError("events must be sorted by user, title and time")

    def _offset(self, time: np.ndarray) -> np.ndarray:
        """Return the place of times within a key: 0 for the first of all events, span - 1 after the last."""
        if self._ranks is not None:
            return np.searchsorted(self._ranks, time)
        offset = np.maximum(time, self._low)
        np.minimum(offset, self._high + 1, out=offset)
        offset -= self._low
        return offset

    def groups(self, key: np.ndarray) -> np.ndarray:
        """Return the numbers [A] of keys; ~n for a key without events, where n is the next key's number."""
        at = np.searchsorted(self._keys, key)
        absent = self._keys[np.minimum(at, len(self._keys) - 1)] != key if len(self._keys) else True
        return np.where(absent, ~at, at)

    def first(self, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the position [A] of the first event of a key at or after a time.

        Where there is no such event it is the position after the key's last event. For a key without events
        it is always the same position.
        """
        return np.searchsorted(self.packed, self.pack(group, time))

    def next(self, begin: np.ndarray, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return what `first` does, but not less than `begin` [A], a position of the same key.

        It takes less time if few events lie between: most windows hold one event or none.
        """
        wanted = self.pack(group, time)
        at = begin.copy()
        for _ in range(_STEPS):
            at += self._padded[at] < wanted
        rest = np.flatnonzero(self._padded[at] < wanted)
        at[rest] = np.searchsorted(self.packed, wanted[rest])
        return at

    def pack(self, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return keys and times [A] in one whole number; the same for all times of a key without events."""
        offset = self._offset(time)
        absent = group < 0
        if absent.any():
            group = np.where(absent, ~group, group)
            offset[absent] = 0
        offset += group * self._span
        return offset

    def begin(self, group: np.ndarray) -> np.ndarray:
        """Return the position [A] of the first event of a key."""
        return self.starts[np.where(group < 0, ~group, group)]


def sums_between(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the sums [A] of whole numbers at the positions from `first` to before `last`, in int64.

    Differences of cumulative sums are exact even where those wrap around.
    """
    before = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=before[1:])
    return before[last] - before[first]


def sort_pairs(key: np.ndarray, time: np.ndarray) -> np.ndarray | None:
    """Return the positions [A] that sort by (key, time); None where they are sorted.

    Two sorts of whole numbers take less time than `np.lexsort`. Equal pairs are in any order.
    """
    rising = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & (time[1:] >= time[:-1]))
    if rising.all():
        return None
    order = np.argsort(key)
    sorted_key = key[order]
    group = np.zeros(len(key), np.int64)
    np.cumsum(sorted_key[1:] != sorted_key[:-1], out=group[1:])
    low, high = int(time.min()), int(time.max())
    if (high - low + 1) * len(key) >= _MOST_PACKED:
        return np.lexsort((time, key))
    group *= high - low + 1
    group += time[order] - low
    return order if (group[1:] >= group[:-1]).all() else order[np.argsort(group)]
