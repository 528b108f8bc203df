"""Routes cleaned events to partitions of users, on disk, so that memory holds a few partitions at a time.

A partition is a range of the users' hashes, so partitions in order are the users in order of hash
however many there are, and nothing written later depends on their number. Events are routed to many
small files, for nobody knows yet how many will come; neighbouring files then make a partition.
"""

from pathlib import Path

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.data.events.cleaning import CleanChunk

_FILES = 512
_MOST_EVENTS = 250_000  # of a partition; about 200 MB while its rows are built


def partition_of(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """int64 in [0, partitions), ascending with the hash."""
    return (((hashes >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)


def record_dtype(features: tuple[Feature, ...]) -> np.dtype:
    """An event's record: fixed width, with the context's provisional codes and raw numbers."""
    context = [f for f in features if f.where == "context"]
    numbers = sum(f.kind == "number" for f in context)
    return np.dtype(
        [
            ("user", "<u8"),
            ("time", "<i8"),
            ("viewed", "<i8"),
            ("title", "<i4"),
            ("categories", "<i4", (len(context) - numbers,)),
            ("numbers", "<f8", (numbers,)),
        ]
    )


def records_of(chunk: CleanChunk, categories: np.ndarray, numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A chunk's events as records, in their order; the context as `Columns.add` gives it."""
    records = np.empty(len(chunk.user_hash), dtype)
    records["user"], records["time"] = chunk.user_hash, chunk.time
    records["viewed"], records["title"] = chunk.viewed, chunk.title
    records["categories"], records["numbers"] = categories, numbers
    return records


def gather(events: np.ndarray, least: int) -> np.ndarray:
    """[F] int64 partition of each of F neighbouring ranges of hashes, which hold events [F]; -1 where none.

    Partitions are numbered in the order of the ranges; none has too many events unless a range alone has.
    `least` are made where there are users enough.
    """
    limit = min(_MOST_EVENTS, -(-int(events.sum()) // least))
    out = np.full(len(events), -1)
    partition, held = -1, limit
    for f in np.flatnonzero(events).tolist():
        if held + int(events[f]) > limit:
            partition, held = partition + 1, 0
        out[f] = partition
        held += int(events[f])
    return out


class Spill:
    """Files of event records."""

    def __init__(self, directory: Path, least: int, dtype: np.dtype) -> None:
        """`least` partitions are made where there are users enough."""
        directory.mkdir()
        self._directory, self._least, self.dtype = directory, least, dtype
        self._files = [directory / f"{f:05d}" for f in range(max(least, _FILES))]
        self._events = np.zeros(len(self._files), np.int64)
        self._partitions: list[list[Path]] = []

    def add(self, chunk: CleanChunk, categories: np.ndarray, numbers: np.ndarray) -> None:
        """Appends a chunk's events to their files."""
        records = records_of(chunk, categories, numbers, self.dtype)
        where = partition_of(chunk.user_hash, len(self._files))
        records = records[np.argsort(where, kind="stable")]
        counts = np.bincount(where, minlength=len(self._files))
        ends = np.cumsum(counts)
        for f in np.flatnonzero(counts):
            with self._files[f].open("ab") as file:
                records[ends[f] - counts[f] : ends[f]].tofile(file)
        self._events += counts

    def make_partitions(self) -> int:
        """Once all events are here: of neighbouring files, none of too many events. How many there are."""
        of_file = gather(self._events, self._least)
        self._partitions = [[] for _ in range(int(of_file.max(initial=-1)) + 1)]
        for file, partition in zip(self._files, of_file.tolist(), strict=True):
            if partition >= 0:
                self._partitions[partition].append(file)
        return len(self._partitions)

    def load(self, partition: int) -> np.ndarray:
        """The partition's records, in no order."""
        return np.concatenate([np.fromfile(path, self.dtype) for path in self._partitions[partition]])

    def replace(self, partition: int, records: np.ndarray) -> None:
        """Puts other records of the same users in the partition's place."""
        path = self._directory / f"partition-{partition:05d}"
        records.tofile(path)
        for file in self._partitions[partition]:
            file.unlink()
        self._partitions[partition] = [path]
