"""Partitions of users on disk, so that memory holds a few at a time.

A partition is a range of user hashes. Partitions in order are therefore the users in order of hash, for any
number of partitions, and the dataset does not depend on that number. Events are routed to many small files,
because the number of events is not known in advance; consecutive files then form a partition.
"""

from pathlib import Path

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.data.events.cleaning import CleanChunk
from jaxrec.data.text.ngrams import code_columns

_FILES = 512
_MAX_EVENTS = 250_000  # per partition; about 200 MB while its rows are built


def partition_of(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """Return the partition of user hashes [N]: int64 in [0, partitions).

    The partition ascends with the hash.
    """
    return (((hashes >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)


def record_dtype(features: tuple[Feature, ...]) -> np.dtype:
    """Return the dtype of an event's record.

    A record has a fixed width, with the provisional codes and raw numbers of the context.
    """
    context = [f for f in features if f.where == "context"]
    numbers = sum(f.kind == "number" for f in context)
    return np.dtype(
        [
            ("user", "<u8"),
            ("time", "<i8"),
            ("viewed", "<i8"),
            ("title", "<i4"),
            ("categories", "<i4", (code_columns(context),)),
            ("numbers", "<f8", (numbers,)),
        ]
    )


def records_of(chunk: CleanChunk, categories: np.ndarray, numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a chunk's events as records [N], in the same order.

    Args:
        chunk: N events.
        categories: [N, categories] int32 provisional codes of the context (`FeatureColumns.add`).
        numbers: [N, numbers] float64 raw numbers of the context.
        dtype: Result of `record_dtype`.
    """
    records = np.empty(len(chunk.user_hash), dtype)
    records["user"], records["time"] = chunk.user_hash, chunk.time
    records["viewed"], records["title"] = chunk.viewed, chunk.title
    records["categories"], records["numbers"] = categories, numbers
    return records


def merge_ranges(events: np.ndarray, least: int) -> np.ndarray:
    """Merge consecutive ranges of hashes into partitions of bounded size.

    Partitions are numbered in the order of the ranges. A partition exceeds the limit of events only where a
    single range does.

    Args:
        events: [F] number of events of each range.
        least: Minimum number of partitions, reached where there are enough users.

    Returns:
        [F] int64 partition of each range, -1 for a range without events.
    """
    limit = min(_MAX_EVENTS, -(-int(events.sum()) // least))
    out = np.full(len(events), -1)
    partition, partition_events = -1, limit
    for f in np.flatnonzero(events).tolist():
        if partition_events + int(events[f]) > limit:
            partition, partition_events = partition + 1, 0
        out[f] = partition
        partition_events += int(events[f])
    return out


def events_beside(plays: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the events [F] of ranges of hashes for `merge_ranges`: all events of ranges with plays.

    Args:
        plays: [F] number of plays of each range.
        others: [F] number of other events; those of a range without plays are in no partition.
    """
    return np.where(plays > 0, plays + others, 0)


class Spill:
    """Files of event records, merged into partitions once all events are written."""

    def __init__(self, directory: Path, least: int, dtype: np.dtype) -> None:
        """Create the directory.

        Args:
            directory: Directory to create.
            least: Minimum number of partitions, reached where there are enough users.
            dtype: Dtype of the records, with a field "user" of hashes.
        """
        directory.mkdir()
        self._directory, self._least, self.dtype = directory, least, dtype
        self._files = [directory / f"{f:05d}" for f in range(max(least, _FILES))]
        self._events = np.zeros(len(self._files), np.int64)
        self._partitions: list[list[Path]] = []

    def add(self, chunk: CleanChunk, categories: np.ndarray, numbers: np.ndarray) -> None:
        """Append a chunk's events to their files; arguments as for `records_of`."""
        self.append(records_of(chunk, categories, numbers, self.dtype))

    def append(self, records: np.ndarray) -> None:
        """Append records [N] of the spill's dtype to the files of their users."""
        file_of_event = partition_of(records["user"], len(self._files))
        records = records[np.argsort(file_of_event, kind="stable")]
        counts = np.bincount(file_of_event, minlength=len(self._files))
        ends = np.cumsum(counts)
        for f in np.flatnonzero(counts):
            with self._files[f].open("ab") as file:
                records[ends[f] - counts[f] : ends[f]].tofile(file)
        self._events += counts

    def make_partitions(self, beside: "Spill") -> int:
        """Merge consecutive files into partitions and return their number.

        All events must be added before. No partition has too many events, unless a single file has.

        Args:
            beside: Events of other kinds, of the same number of files, which get the same partitions.
        """
        of_file = merge_ranges(events_beside(self._events, beside._events), self._least)
        for spill in (self, beside):
            spill._partitions = [[] for _ in range(int(of_file.max(initial=-1)) + 1)]
            for file, events, partition in zip(spill._files, spill._events, of_file.tolist(), strict=True):
                if events and partition >= 0:
                    spill._partitions[partition].append(file)
        return len(self._partitions)

    def load(self, partition: int) -> np.ndarray:
        """Return the partition's records [N] of the spill's dtype, in no particular order."""
        files = [np.fromfile(path, self.dtype) for path in self._partitions[partition]]
        return np.concatenate(files) if files else np.empty(0, self.dtype)

    def replace(self, partition: int, records: np.ndarray) -> None:
        """Replace the partition's records by other records [N] of the same users."""
        if not self._partitions[partition]:
            return  # there are no records
        path = self._directory / f"partition-{partition:05d}"
        records.tofile(path)
        for file in self._partitions[partition]:
            file.unlink()
        self._partitions[partition] = [path]
