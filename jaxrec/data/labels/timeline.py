"""Search in events that are sorted by a key and their time."""

import numpy as np

_MOST_PACKED = 2**62


class Timeline:
    """Index of N events that are sorted by (key, time).

    A key and a time are packed into one whole number, so that one binary search gives the first event of a key
    at or after a time. Keys are numbered by their order, and times that span too much by their rank.

    Attributes:
        starts: [K + 1] position of the first event of each of the K distinct keys, and N.
        group: [N] number of the event's key.
        packed: [N] key and time of the event in one whole number, ascending.
    """

    def __init__(self, key: np.ndarray, time: np.ndarray):
        """Index events.

        Raises:
            ValueError: The events are not sorted.
        """
        is_first = np.ones(len(key), bool)
        is_first[1:] = key[1:] != key[:-1]
        first = np.flatnonzero(is_first)
        self._keys = key[first]
        self.starts = np.append(first, len(key))
        self.group = np.cumsum(is_first) - 1
        self._low, self._high = (int(time.min()), int(time.max())) if len(time) else (0, 0)
        self._ranks: np.ndarray | None = None
        self._span = self._high - self._low + 2  # one more than there are times: the end of a key
        if self._span * (len(first) + 1) >= _MOST_PACKED:
            self._ranks = np.unique(time)
            self._span = len(self._ranks) + 1
        self.packed = self.group * self._span + self._offset(time)
        if np.any(self._keys[1:] < self._keys[:-1]) or np.any(self.packed[1:] < self.packed[:-1]):
            raise ValueError("events must be sorted by user, title and time")

    def _offset(self, time: np.ndarray) -> np.ndarray:
        if self._ranks is not None:
            return np.searchsorted(self._ranks, time)
        return np.clip(time, self._low, self._high) - self._low + (time > self._high)

    def groups(self, key: np.ndarray) -> np.ndarray:
        """Return the numbers [A] of keys, -1 for a key without events."""
        if not len(self._keys):
            return np.full(len(key), -1)
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        return np.where(self._keys[at] == key, at, -1)

    def first(self, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the position [A] of the first event of a key at or after a time; 0 for group -1.

        Where there is no such event it is the position after the key's last event.
        """
        wanted = group * self._span + self._offset(time)
        wanted[group < 0] = 0
        return np.where(group < 0, 0, np.searchsorted(self.packed, wanted))

    def begin(self, group: np.ndarray) -> np.ndarray:
        """Return the position [A] of the first event of a key; 0 for group -1."""
        return np.where(group < 0, 0, self.starts[group])


def sums_between(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the sums [A] of whole numbers at the positions from `first` to before `last`, in int64.

    Differences of cumulative sums are exact even where those wrap around.
    """
    before = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=before[1:])
    return before[last] - before[first]


def sort_pairs(key: np.ndarray, time: np.ndarray, stable: bool = False) -> np.ndarray | None:
    """Return the positions [A] that sort by (key, time); None where they are sorted.

    Two sorts of whole numbers take less time than `np.lexsort`.

    Args:
        key: [A] int64.
        time: [A] int64.
        stable: True: equal pairs stay in their order.
    """
    rising = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & (time[1:] >= time[:-1]))
    if rising.all():
        return None
    order = np.argsort(key, stable=stable)
    sorted_key = key[order]
    group = np.zeros(len(key), np.int64)
    np.cumsum(sorted_key[1:] != sorted_key[:-1], out=group[1:])
    low, high = int(time.min()), int(time.max())
    if (high - low + 1) * len(key) >= _MOST_PACKED:
        return np.lexsort((time, key))
    packed = group * (high - low + 1) + (time[order] - low)
    if (packed[1:] >= packed[:-1]).all():
        return order
    return order[np.argsort(packed, stable=stable)]
